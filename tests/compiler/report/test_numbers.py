from __future__ import annotations

import math

import pytest

from castline.compiler.report.numbers import decibels, duration, percentage, significant, size


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (912, "912 B"),
        (13_400, "13.4 kB"),
        (999_600, "1 MB"),
        (538_000_000, "538 MB"),
        (1_214_000_000, "1.21 GB"),
        (5e15, "5,000 TB"),
    ],
)
def test_sizes(amount: float, text: str) -> None:
    assert size(amount) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (4.5, "4.5"),
        (-4.625, "-4.62"),
        (286.4, "286"),
        (12_340.2, "12,340"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_shares_and_times() -> None:
    assert percentage(0.7451) == "74.5 %"
    assert duration(9.54) == "9.54 s"
    assert duration(125.9) == "2 min 5 s"


def test_no_noise_at_all_is_exact() -> None:
    assert decibels(31.26) == "31.3"
    assert decibels(math.inf) == "exact"
    assert decibels(-math.inf) == "-inf"
