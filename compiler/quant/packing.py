"""Pack codes as `MatMulNBits` of the com.microsoft domain stores them."""

from __future__ import annotations

import numpy as np

from castline.compiler.quant.arrays import Array


def packed_codes(codes: Array, bits: int, block: int) -> Array:
    """Return uint8 [N, K / block, block * bits / 8] from unsigned codes uint8 [K, N].

    Two 4-bit codes share a byte, the even one of K in the low half.
    """
    k, n = codes.shape
    rows = np.ascontiguousarray(codes.T).reshape(n, k // block, block)
    return _nibbles(rows) if bits == 4 else rows


def packed_zero_points(zero_points: Array, bits: int) -> Array:
    """Return uint8 [N, ceil(G * bits / 8)] from uint8 [G, N]; an odd last 4-bit one is padded."""
    rows = np.ascontiguousarray(zero_points.T)
    if bits == 8:
        return rows
    if rows.shape[1] % 2:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    return _nibbles(rows)


def unsigned(codes: Array, bits: int) -> Array:
    """Return signed codes shifted to unsigned ones, uint8; zero becomes 2**(bits - 1).

    In two's complement that turns the sign bit over. Of a byte that holds a code of 4 bits only the
    low half counts: what is in the high half differs between those who unpack it.
    """
    sign, mask = 1 << (bits - 1), (1 << bits) - 1
    return (codes.view(np.uint8) ^ np.uint8(sign)) & np.uint8(mask)


def _nibbles(codes: Array) -> Array:
    return np.ascontiguousarray(codes[..., 0::2] | (codes[..., 1::2] << 4))
