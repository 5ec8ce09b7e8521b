"""Sums of products of codes are exact, and the body does what the reference says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from castline.plugins.linear_w8a8.op import (
    LINEAR_W8A8,
    LINEAR_W8A8_ASYMMETRIC,
    linear_w8a8,
    linear_w8a8_asymmetric,
)

Run = Callable[..., list[np.ndarray]]
RANDOM = np.random.default_rng(0)


def codes(*shape: int) -> np.ndarray:
    return RANDOM.integers(-128, 128, shape).astype(np.int8)


def test_the_reference_multiplies_what_the_codes_stand_for() -> None:
    y = linear_w8a8(
        np.array([[1, 2], [-3, 4]], np.int8),
        np.array([[0.5], [2]], np.float32),
        np.array([[5, -6, 0], [7, 8, 1]], np.int8),
        np.array([1, 0.25, 10], np.float32),
    )
    np.testing.assert_array_equal(y, [[9.5, 1.25, 10], [26, 25, 80]])


def test_the_zero_point_is_no_part_of_the_product() -> None:
    moved, weights = codes(3, 5), codes(5, 4)
    zero = np.array([[3], [-7], [0]], np.int8)
    one = np.ones(1, np.float32)
    wanted = (moved.astype(np.int64) - zero) @ weights.astype(np.int64)
    np.testing.assert_array_equal(
        linear_w8a8_asymmetric(moved, one, zero, weights, one), wanted.astype(np.float32)
    )


@pytest.mark.parametrize("per_token", [True, False], ids=["per token", "per tensor"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("k", "n"), [(64, 32), (33, 7), (1, 1), (1025, 3)])
def test_the_body_is_the_reference(
    run_op: Run, k: int, n: int, dtype: type, per_channel: bool, per_token: bool
) -> None:
    x, weights = codes(2, 3, k), codes(k, n)
    scale = RANDOM.uniform(0.001, 0.1, (2, 3, 1) if per_token else ()).astype(np.float32)
    weight_scale = RANDOM.uniform(1e-3, 1e-2, (n,) if per_channel else ()).astype(dtype)
    zero = codes(*scale.shape)
    found = run_op(LINEAR_W8A8, x, scale, weights, weight_scale)[0]
    np.testing.assert_array_equal(found, linear_w8a8(x, scale, weights, weight_scale), strict=True)
    found = run_op(LINEAR_W8A8_ASYMMETRIC, x, scale, zero, weights, weight_scale)[0]
    wanted = linear_w8a8_asymmetric(x, scale, zero, weights, weight_scale)
    np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_saturate(run_op: Run, sign: int) -> None:
    k = 4096  # 127 * 127 * 4096 needs 26 bits; pairs of products already need 16
    x, weights = np.full((1, k), 127, np.int8), np.full((k, 2), sign * 127, np.int8)
    one = np.ones((), np.float32)
    (y,) = run_op(LINEAR_W8A8, x, one, weights, one)
    np.testing.assert_array_equal(y, np.full((1, 2), sign * 127 * 127 * k, np.float32))
