"""A scheme says its codes, and which group a matrix gets when the asked one does not fit."""

from __future__ import annotations

import pytest

from castline.compiler.quant.scheme import WeightScheme


@pytest.mark.parametrize(
    ("bits", "symmetric", "expected"),
    [(4, True, (-8, 7)), (4, False, (0, 15)), (8, True, (-128, 127)), (8, False, (0, 255))],
)
def test_codes_are_twos_complement_or_unsigned(
    bits: int, symmetric: bool, expected: tuple[int, int]
) -> None:
    assert WeightScheme(bits, 32, symmetric).code_range == expected


@pytest.mark.parametrize(
    ("group_size", "k", "expected"),
    [
        (128, 1024, 128),
        (128, 576, 64),
        (128, 48, 16),
        (64, 96, 32),
        (32, 16, 16),
        (128, 100, None),
        (32, 24, None),
        (None, 576, None),
    ],
)
def test_a_group_that_does_not_divide_k_gives_way_to_the_next_that_does(
    group_size: int | None, k: int, expected: int | None
) -> None:
    assert WeightScheme(4, group_size, True).group_for(k) == expected


@pytest.mark.parametrize("bits", [0, 3, 16])
def test_refuses_other_widths(bits: int) -> None:
    with pytest.raises(ValueError, match=rf"bits is {bits}; expected one of \(4, 8\)"):
        WeightScheme(bits, 32, True)


@pytest.mark.parametrize("group_size", [0, 16, 100, -32])
def test_refuses_other_groups(group_size: int) -> None:
    with pytest.raises(ValueError, match=f"group_size is {group_size}; expected"):
        WeightScheme(4, group_size, True)


def test_reads_as_words() -> None:
    assert str(WeightScheme(4, 128, False)) == "INT4, group 128, zero-points"
    assert str(WeightScheme(8, None, True)) == "INT8, per channel, symmetric"
