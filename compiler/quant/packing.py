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


def packed_halves(codes: Array) -> Array:
    """Return uint8 [..., ceil(N / 2)] from codes of 4 bits, uint8 [..., N]; the even one is low.

    Of each byte only the low half counts.
    """
    if codes.shape[-1] % 2:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, 1)])
    return _nibbles(codes & np.uint8(15))


def halves(packed: Array, n: int, *, signed: bool) -> Array:
    """Return the codes [..., n] that `packed_halves` packed: int8 if signed, uint8 otherwise."""
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)[..., :n]
    if not signed:
        return codes
    extended: Array = ((codes ^ np.uint8(8)).view(np.int8)) - np.int8(8)
    return extended


def _nibbles(codes: Array) -> Array:
    return np.ascontiguousarray(codes[..., 0::2] | (codes[..., 1::2] << 4))
