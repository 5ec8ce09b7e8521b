"""Each layout of codes is decoded to the weights that the operator multiplies by."""

from __future__ import annotations

import numpy as np
import pytest

from castline.compiler.importing.decoding import weights_of, weights_of_packed, weights_of_plugin
from castline.compiler.quant.packing import packed_codes, packed_zero_points
from castline.plugins.packing import pack, pack_scales

RANDOM = np.random.default_rng(0)


def test_groups_channels_and_one_scale_for_all() -> None:
    codes = np.array([[1, -2], [3, 4], [5, 6], [-7, 0]], np.int8)
    groups = np.array([[2, 1], [0.5, 10]], np.float32)
    np.testing.assert_array_equal(
        weights_of(codes, groups), [[2, -2], [6, 4], [2.5, 60], [-3.5, 0]]
    )
    np.testing.assert_array_equal(weights_of(codes, groups[0])[0], [2, -2])
    np.testing.assert_array_equal(weights_of(codes, np.float32(3))[3], [-21, 0])


def test_zero_points_are_taken_off_and_offsets_added() -> None:
    codes, scales = np.array([[4], [5]], np.uint8), np.array([[0.5]], np.float32)
    zero, offset = np.array([[3]], np.uint8), np.array([[10]], np.float32)
    np.testing.assert_array_equal(weights_of(codes, scales, zero), [[0.5], [1]])
    np.testing.assert_array_equal(weights_of(codes, scales, offsets=offset), [[12], [12.5]])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("groups", [1, 3])
def test_packed_codes_are_those_that_were_packed(bits: int, groups: int) -> None:
    k, n, most = groups * 16, 5, 1 << bits
    codes = RANDOM.integers(0, most, (k, n)).astype(np.uint8)
    zeros = RANDOM.integers(0, most, (groups, n)).astype(np.uint8)
    scales = RANDOM.uniform(0.1, 1, (groups, n)).astype(np.float32)
    packed, flat = packed_codes(codes, bits, 16), np.ascontiguousarray(scales.T).reshape(-1)
    np.testing.assert_array_equal(
        weights_of_packed(packed, flat, packed_zero_points(zeros, bits), bits),
        weights_of(codes, scales, zeros),
    )
    np.testing.assert_array_equal(
        weights_of_packed(packed, flat, None, bits),
        weights_of(codes, scales, np.full_like(zeros, most // 2)),
    )


@pytest.mark.parametrize("beside", ["zero_points", "offsets"])
def test_groups_of_plugins_are_those_that_were_packed(beside: str) -> None:
    codes = RANDOM.integers(-8, 8, (64, 5)).astype(np.int8)
    scales = RANDOM.uniform(0.1, 1, (2, 5)).astype(np.float32)
    shifts = {
        "zero_points": RANDOM.integers(-8, 8, (2, 5)).astype(np.int8),
        "offsets": RANDOM.standard_normal((2, 5)).astype(np.float32),
    }
    parts = {
        "packed": pack(codes.T, 4),
        "scales": pack_scales(scales.T),
        beside: pack_scales(shifts[beside].T),
    }
    np.testing.assert_array_equal(
        weights_of_plugin(5, 64, parts), weights_of(codes, scales, **{beside: shifts[beside]})
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_channels_of_plugins_are_those_that_were_packed(bits: int) -> None:
    codes = RANDOM.integers(-(1 << bits - 1), 1 << bits - 1, (48, 20)).astype(np.int8)
    scale, zero = RANDOM.uniform(0.1, 1, 20), RANDOM.integers(-8, 8, 20).astype(np.int8)
    parts = {"packed": pack(codes.T, bits), "weight_scale": scale}
    np.testing.assert_array_equal(weights_of_plugin(20, 48, parts), weights_of(codes, scale))
    np.testing.assert_array_equal(
        weights_of_plugin(20, 48, parts | {"weight_zero_point": zero}),
        weights_of(codes, scale, zero),
    )
