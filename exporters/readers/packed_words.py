"""Pack and unpack codes of 2 to 8 bits, side by side in 32-bit words, lowest bits first.

A word, its highest bits to the left:

    4 bits       | 7 | 6 | 5 | 4 | 3 | 2 | 1 | 0 |   8 codes fill a word
    3, padded    |..| 9 | 8 | ...... | 2 | 1 | 0 |   10 codes a word, two bits unused
    3, straddled | a| 9 | 8 | ...... | 2 | 1 | 0 |   32 codes fill 3 words; 10, a, is in two
"""

from __future__ import annotations

import math

import numpy as np

from castline.exporters.readers.tensors import Array

_WORD = 32  # bits


def word_count(codes: int, bits: int, *, straddled: bool) -> int:
    """Return how many words hold so many codes."""
    return math.ceil(codes * bits / _WORD) if straddled else math.ceil(codes / (_WORD // bits))


def unpacked(words: Array, bits: int, codes: int, *, straddled: bool) -> Array:
    """Return the codes uint8 [R, codes] of words int32 or uint32 [R, W], as many as are asked for.

    With `straddled` a code may lie in two neighbouring words; otherwise the bits that no whole code
    fits in are unused. Both are the same where `bits` divides 32.
    """
    period = _WORD // math.gcd(_WORD, bits) if straddled else _WORD // bits  # codes
    span = bits // math.gcd(_WORD, bits) if straddled else 1  # words that hold a period
    rows, width = words.shape
    periods = math.ceil(width / span)
    padded = np.zeros((rows, periods * span), np.uint32)
    padded[:, :width] = words.view(np.uint32)
    every = np.empty((rows, periods * period), np.uint8)
    for place in range(period):
        word, shift = divmod(place * bits, _WORD)
        code = padded[:, word::span] >> shift
        if shift + bits > _WORD:
            code |= padded[:, word + 1 :: span] << (_WORD - shift)
        every[:, place::period] = code & ((1 << bits) - 1)
    return every[:, :codes]


def packed(codes: Array, bits: int) -> Array:
    """Return words int32 [R, W] of codes uint8 [R, C], each below 2**bits; bits are 2, 4 or 8.

    What no code fills of the last word of a row is zeros.
    """
    per_byte = 8 // bits
    rows, count = codes.shape
    width = word_count(count, bits, straddled=False) * (_WORD // bits)
    padded = np.zeros((rows, width), np.uint8)
    padded[:, :count] = codes
    octets = padded[:, ::per_byte].copy()
    for place in range(1, per_byte):
        octets |= padded[:, place::per_byte] << (place * bits)
    return octets.view("<i4").astype(np.int32, copy=False)
