"""Units and whole numbers of them are exact, near the scales asked for, and found again."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from castline.compiler.quant.two_level import MOST_UNITS, in_units, levels, unit_of

LEAST = 2.0**-24  # float16's least number
ROUNDED = 2.0**-7  # half of the last of a unit's seven bits, by the least that seven bits hold


def scales_from(least: float) -> st.SearchStrategy[np.ndarray]:
    """Return scales [G, N], zeros or from `least` on."""
    elements = st.one_of(st.just(0.0), st.floats(least, 2.0**15, width=32))
    return arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=elements)


SCALES = scales_from(2.0**-22)


@given(SCALES)
def test_every_type_holds_a_unit_and_float16_its_multiples(scales: np.ndarray) -> None:
    unit = unit_of(scales)
    for kind in (np.float16, ml_dtypes.bfloat16):
        np.testing.assert_array_equal(unit.astype(kind).astype(np.float32), unit)
    found = in_units(scales, unit)
    np.testing.assert_array_equal(found.astype(np.float16).astype(np.float32), found)


@given(scales_from(2.0**-13))  # a 16th of less has no seven bits in float16
def test_scales_are_within_half_a_unit_of_what_was_asked_for(scales: np.ndarray) -> None:
    unit = unit_of(scales)
    found, asked = in_units(scales, unit), np.maximum(scales, unit)
    assert (np.abs(found - asked) <= unit / 2 * (1 + 1e-6)).all()
    at_most = MOST_UNITS * unit * (1 + ROUNDED)
    assert (asked <= at_most).all(), "the largest scale makes the unit"


@given(SCALES)
def test_integers_and_units_are_found_again_from_their_products(scales: np.ndarray) -> None:
    made = in_units(scales, unit_of(scales))
    integers, unit = levels(made)
    assert integers.dtype == np.int8
    assert (integers.min(), unit.min()) >= (1, LEAST)
    assert integers.max() <= MOST_UNITS
    np.testing.assert_array_equal(integers * unit, made, strict=True)


def test_a_unit_is_a_sixteenth_of_the_largest_scale_of_a_channel() -> None:
    scales = np.array([[16, 3], [4.4, 48], [4.6, 0], [0.2, 1]], np.float32)
    unit = unit_of(scales)
    np.testing.assert_array_equal(unit, [[1, 3]])
    np.testing.assert_array_equal(in_units(scales, unit), [[16, 3], [4, 48], [5, 3], [1, 3]])


def test_a_channel_of_zeros_has_the_unit_one_and_one_of_next_to_nothing_the_least() -> None:
    unit = unit_of(np.array([[0, 1e-30], [0, 0]], np.float32))
    np.testing.assert_array_equal(unit, np.array([[1, LEAST]], np.float32))


def test_of_several_answers_the_smallest_unit_is_found() -> None:
    integers, unit = levels(np.array([[8, 7], [4, 5]], np.float32))
    np.testing.assert_array_equal(integers, [[16, 14], [8, 10]])
    np.testing.assert_array_equal(unit, [0.5, 0.5])


def test_scales_of_one_level_are_nobodys_products() -> None:
    with pytest.raises(AssertionError, match="two levels chose scales in units"):
        levels(np.array([[1], [0.3]], np.float32))
