"""Codes that do not go together are our own mistake."""

from __future__ import annotations

import pytest

from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.scheme import WeightScheme


def test_offsets_go_with_signed_codes_of_four_bits() -> None:
    assert GivenCodes(WeightScheme(3, 32, True), lambda: (), has_offsets=True).has_offsets
    for scheme in (WeightScheme(4, 32, False), WeightScheme(8, 32, True)):
        with pytest.raises(AssertionError, match="offsets go with signed codes of 4 bits"):
            GivenCodes(scheme, lambda: (), has_offsets=True)


def test_e4m3_has_eight_bits_and_a_sign() -> None:
    assert GivenCodes(WeightScheme(8, "per-tensor", True), lambda: (), float8=True).float8
    for scheme in (WeightScheme(8, 32, False), WeightScheme(4, 32, True)):
        with pytest.raises(AssertionError, match="E4M3 has 8 bits"):
            GivenCodes(scheme, lambda: (), float8=True)
