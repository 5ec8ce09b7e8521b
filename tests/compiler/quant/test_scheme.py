"""A scheme says its codes, and which group a matrix gets when the asked one does not fit."""

from __future__ import annotations

import pytest

from castline.compiler.quant.scheme import ActivationScheme, GroupSize, RangeMethod, WeightScheme


@pytest.mark.parametrize(
    ("bits", "symmetric", "expected"),
    [
        (2, True, (-2, 1)),
        (3, False, (0, 7)),
        (4, True, (-8, 7)),
        (4, False, (0, 15)),
        (8, True, (-128, 127)),
        (8, False, (0, 255)),
    ],
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
        (128, 100, "per-channel"),
        (32, 24, "per-channel"),
        ("per-channel", 576, "per-channel"),
        ("per-tensor", 100, "per-tensor"),
    ],
)
def test_a_group_that_does_not_divide_k_gives_way_to_the_next_that_does(
    group_size: GroupSize, k: int, expected: GroupSize
) -> None:
    assert WeightScheme(4, group_size, True).group_for(k) == expected


@pytest.mark.parametrize("bits", [0, 1, 9, 16])
def test_refuses_other_widths(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits is {bits}; expected 2 to 8"):
        WeightScheme(bits, 32, True)


@pytest.mark.parametrize("group_size", [0, 8, 100, -32])
def test_refuses_other_groups(group_size: int) -> None:
    with pytest.raises(ValueError, match=f"group_size is {group_size}; expected"):
        WeightScheme(4, group_size, True)


@pytest.mark.parametrize(("bits", "stored"), [(2, 4), (3, 4), (4, 4), (5, 8), (6, 8), (8, 8)])
def test_codes_are_stored_in_four_or_eight_bits(bits: int, stored: int) -> None:
    assert WeightScheme(bits, 32, True).storage_bits == stored


def test_refuses_the_entropy_of_a_group() -> None:
    entropy = RangeMethod("entropy")
    with pytest.raises(ValueError, match="range is entropy and group_size 64; expected per-chan"):
        WeightScheme(4, 64, True, entropy)
    assert WeightScheme(4, "per-channel", True, entropy).range == entropy


@pytest.mark.parametrize("percentile", [0.0, 50.0, 100.1, float("nan")])
def test_refuses_a_percentile_that_clips_half_or_is_none(percentile: float) -> None:
    with pytest.raises(ValueError, match="expected above 50 and up to 100"):
        RangeMethod("percentile", percentile)


@pytest.mark.parametrize(
    ("bits", "symmetric", "expected"),
    [(8, True, (-127, 127)), (8, False, (-128, 127)), (4, True, (-7, 7)), (2, False, (-2, 1))],
)
def test_activation_codes_are_signed_and_as_far_below_zero_as_above_where_symmetric(
    bits: int, symmetric: bool, expected: tuple[int, int]
) -> None:
    scheme = ActivationScheme(bits, "per-tensor", dynamic=True, symmetric=symmetric)
    assert scheme.code_range == expected


def test_refuses_static_scales_per_token() -> None:
    with pytest.raises(ValueError, match="known at run time only; expected dynamic"):
        ActivationScheme(8, "per-token", dynamic=False)


def test_refuses_to_choose_ranges_at_run_time() -> None:
    with pytest.raises(ValueError, match="range is mse; dynamic ranges are by max"):
        ActivationScheme(8, "per-tensor", dynamic=True, range=RangeMethod("mse"))


@pytest.mark.parametrize("bits", [1, 9])
def test_refuses_activations_of_other_widths(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits is {bits}; expected 2 to 8"):
        ActivationScheme(bits, "per-tensor", dynamic=True)


def test_reads_as_words() -> None:
    assert str(WeightScheme(4, 128, False)) == "INT4, group 128, zero-points"
    assert str(WeightScheme(8, "per-channel", True)) == "INT8, per channel, symmetric"
    clipped = WeightScheme(6, "per-tensor", True, RangeMethod("percentile", 99.99))
    assert str(clipped) == "INT6, per tensor, symmetric, range by percentile 99.99"
    dynamic = ActivationScheme(8, "per-token", dynamic=True)
    assert str(dynamic) == "INT8, per token, dynamic, symmetric"
    static = ActivationScheme(
        8, "per-tensor", dynamic=False, symmetric=False, range=RangeMethod("mse")
    )
    assert str(static) == "INT8, per tensor, static, zero-points, range by mse"


@pytest.mark.parametrize(("bits", "symmetric"), [(3, True), (8, True), (4, False)])
def test_two_levels_are_for_four_bits_without_zero_points(bits: int, symmetric: bool) -> None:
    with pytest.raises(ValueError, match="expected bits 4 and symmetric true"):
        WeightScheme(bits, 128, symmetric, two_level=True)


@pytest.mark.parametrize("group", ["per-channel", "per-tensor"])
def test_two_levels_are_for_groups(group: GroupSize) -> None:
    with pytest.raises(ValueError, match=f"group_size {group}; expected 16, 32, 64 or 128"):
        WeightScheme(4, group, True, two_level=True)


def test_a_matrix_without_groups_has_scales_of_one_level() -> None:
    two_level = WeightScheme(4, 128, True, two_level=True)
    assert [two_level.in_two_levels(k) for k in (256, 576, 100)] == [True, True, False]
    assert not WeightScheme(4, 128, True).in_two_levels(256)
    assert str(two_level) == "INT4, group 128, two levels, symmetric"
