"""Pack codes of weights for the kernels, and unpack them: the layout, drawn.

A weight [N, K] is cut into strips of 16 output channels and blocks of 64 input channels, both
padded with zeros. A block of a strip is what the 32 lanes of a warp load at once, 16 bytes each,
4-bit codes in one such load and 8-bit codes in two. Lane 4 * row + quad holds, of the output
channels `row` and `8 + row` of its strip, the input channels

    32 * half + 8 * quad + 4 * word + place      half, word: 0, 1    quad, place: 0..3

of the block. That is what the lane hands to the matrix instructions (m16n8k16 for float16 and
bfloat16, m16n8k32 for int8) as its part of their first operand, up to an order of input channels
within 32, which activations are read in, too. So one file serves every architecture, nothing is
shuffled at run time, and groups of any multiple of 32 input channels end where an instruction ends.

    4 bits   byte of a block  16 * lane + 8 * half + 4 * word + place
             low four bits: channel `row`; high four bits: channel `8 + row`; two's complement
    8 bits   byte of a block  512 * half + 16 * lane + 8 * word + 4 * upper + place
             upper: 0 for channel `row`, 1 for channel `8 + row`
    scales   element of a strip and a group  2 * row + upper

plugins/common/layout.h is the twin of this file in C++.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LAYOUT_VERSION = 1
STRIP_ROWS = 16
BLOCK_DEPTH = 64
HALF_DEPTH = 32

_FOUR_BITS = 4
# Axes of a weight that is cut up: strip, upper, row | block, half, quad, word, place.
_CUT = (2, 8, 2, 4, 2, 4)
_ORDER_4 = (0, 3, 2, 5, 4, 6, 7, 1)  # strip, block, row, quad, half, word, place, upper
_ORDER_8 = (0, 3, 4, 2, 5, 6, 1, 7)  # strip, block, half, row, quad, word, upper, place


def packed_shape(n: int, k: int, bits: int) -> tuple[int, int, int]:
    """Return the shape of a packed weight [N, K]: strips, blocks, bytes of a block."""
    return -(-n // STRIP_ROWS), -(-k // BLOCK_DEPTH), STRIP_ROWS * BLOCK_DEPTH * bits // 8


def pack(codes: Array, bits: int) -> Array:
    """Return int8 [strips, blocks, bytes] of signed `codes` [N, K] of 4 or 8 bits.

    Raises:
        ValueError: a code is not among those of `bits`.
    """
    wide = codes.astype(np.int8)
    if bits == _FOUR_BITS and wide.size and not -8 <= wide.min() <= wide.max() <= 7:
        raise ValueError(f"codes of 4 bits are -8..7, not {wide.min()}..{wide.max()}")
    n, k = codes.shape
    shape = packed_shape(n, k, bits)
    cut = _cut(wide, shape)
    if bits != _FOUR_BITS:
        return np.ascontiguousarray(cut.transpose(_ORDER_8)).reshape(shape)
    lower, upper = np.moveaxis(cut.transpose(_ORDER_4), -1, 0)
    packed: Array = ((lower & 15) | (upper << 4)).astype(np.int8)
    return packed.reshape(shape)


def unpack(packed: Array, n: int, k: int, bits: int) -> Array:
    """Return the int8 codes [N, K] of a packed weight."""
    strips, blocks, _ = packed.shape
    if bits == _FOUR_BITS:
        lanes = packed.reshape(strips, blocks, 8, 4, 2, 2, 4)
        stored = np.stack(((lanes << 4) >> 4, lanes >> 4), -1)
        order = _ORDER_4
    else:
        stored = packed.reshape(strips, blocks, 2, 8, 4, 2, 2, 4)
        order = _ORDER_8
    cut = stored.transpose(np.argsort(order))
    return cut.reshape(strips * STRIP_ROWS, blocks * BLOCK_DEPTH)[:n, :k]


def pack_scales(scales: Array) -> Array:
    """Return [strips, G, 16], padded with zeros, of scales or offsets [N, G], in their type."""
    n, groups = scales.shape
    strips = -(-n // STRIP_ROWS)
    padded = np.zeros((strips * STRIP_ROWS, groups), scales.dtype)
    padded[:n] = scales
    cut = padded.reshape(strips, 2, 8, groups)  # strip, upper, row, group
    return np.ascontiguousarray(cut.transpose(0, 3, 2, 1)).reshape(strips, groups, STRIP_ROWS)


def unpack_scales(packed: Array, n: int) -> Array:
    """Return the scales or offsets [N, G] of packed ones."""
    strips, groups, _ = packed.shape
    cut = packed.reshape(strips, groups, 8, 2).transpose(0, 3, 2, 1)
    return cut.reshape(strips * STRIP_ROWS, groups)[:n]


def _cut(codes: Array, shape: tuple[int, int, int]) -> Array:
    strips, blocks, _ = shape
    padded = np.zeros((strips * STRIP_ROWS, blocks * BLOCK_DEPTH), np.int8)
    padded[: codes.shape[0], : codes.shape[1]] = codes
    upper, row, half, quad, word, place = _CUT
    return padded.reshape(strips, upper, row, blocks, half, quad, word, place)
