from __future__ import annotations

import numpy as np
import pytest

from castline.exporters.readers.packed_words import packed as packed_at_once
from castline.exporters.readers.packed_words import unpacked, word_count


def packed(row: list[int], bits: int, *, straddled: bool) -> list[int]:
    """Pack codes one by one into words, by arithmetic on one long number per row or word."""
    if straddled:
        whole = sum(code << (bits * place) for place, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        return [(whole >> (32 * word)) & 0xFFFFFFFF for word in range(count)]
    per = 32 // bits
    chunks = [row[begin : begin + per] for begin in range(0, len(row), per)]
    return [sum(code << (bits * i) for i, code in enumerate(chunk)) for chunk in chunks]


def words_of(codes: np.ndarray, bits: int, *, straddled: bool) -> np.ndarray:
    rows = [packed(row, bits, straddled=straddled) for row in codes.tolist()]
    return np.array(rows, np.uint32).view(np.int32)


@pytest.mark.parametrize("straddled", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("count", [1, 7, 32, 45, 96])
def test_unpacks_what_was_packed_code_by_code(bits, straddled, count):
    generator = np.random.default_rng(bits)
    codes = generator.integers(0, 2**bits, (3, count))
    words = words_of(codes, bits, straddled=straddled)
    assert words.shape[1] == word_count(count, bits, straddled=straddled)
    result = unpacked(words, bits, count, straddled=straddled)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, codes)


def test_takes_every_half_byte_from_the_lowest_bits_up():
    words = np.array([[0x76543210, 0xFEDCBA98]], np.uint32).view(np.int32)
    assert unpacked(words, 4, 16, straddled=True).tolist() == [list(range(16))]


def test_a_three_bit_code_may_lie_in_two_words_or_leave_two_bits():
    # Code 10 begins at bit 30: its lowest two bits end the first word, its highest begins the next.
    straddling = np.array([[0b11 << 30, 0b1]], np.uint32)
    assert unpacked(straddling, 3, 11, straddled=True)[0, 10] == 7
    assert unpacked(straddling, 3, 11, straddled=False)[0, 10] == 1


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("count", [1, 7, 32, 45])
def test_packs_as_code_by_code(bits, count):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, count)).astype(np.uint8)
    words = packed_at_once(codes, bits)
    assert words.dtype == np.int32
    np.testing.assert_array_equal(words, words_of(codes, bits, straddled=False))
