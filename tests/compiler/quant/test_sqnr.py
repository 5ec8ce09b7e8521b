"""Signal by noise, in decibels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from castline.compiler.quant.sqnr import decibels, sqnr_db


def test_a_tenth_of_the_signal_is_twenty_decibels() -> None:
    reference = np.array([[3.0, 4.0]], np.float32)
    assert sqnr_db(reference, reference * np.float32(0.9)) == pytest.approx(20, abs=1e-4)
    assert sqnr_db(reference, np.zeros_like(reference)) == 0


def test_a_bit_is_worth_six_decibels() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 100_000).astype(np.float32)
    rounded = [np.rint(x * 2**bits) / 2**bits for bits in (6, 7)]
    assert sqnr_db(x, rounded[1]) - sqnr_db(x, rounded[0]) == pytest.approx(6.02, abs=0.1)


def test_what_is_equal_has_no_noise_and_what_is_zero_no_signal() -> None:
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert sqnr_db(ones, ones) == sqnr_db(zeros, zeros) == math.inf
    assert sqnr_db(zeros, ones) == -math.inf


def test_float16_sums_do_not_overflow() -> None:
    x = np.full((3, 1_000_000), 60000, np.float16)
    assert sqnr_db(x, np.zeros_like(x)) == 0


def test_nan_is_told() -> None:
    assert math.isnan(sqnr_db(np.ones(2), np.array([1, np.nan])))


def test_arrays_of_other_shapes_are_not_compared() -> None:
    with pytest.raises(AssertionError):
        sqnr_db(np.ones(3), np.ones((3, 1)))


def test_sums_gathered_elsewhere() -> None:
    assert decibels(100, 1) == pytest.approx(20)
    assert decibels(0, 0) == math.inf
