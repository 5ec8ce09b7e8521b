"""The body does what the reference says, and zero-points become offsets without rounding."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from castline.plugins.linear_w4a16.op import LINEAR_W4A16, linear_w4a16

Run = Callable[..., list[np.ndarray]]
RANDOM = np.random.default_rng(0)


def test_the_reference_adds_the_offset_of_each_group() -> None:
    y = linear_w4a16(
        np.array([[1, 2, 3, 4]], np.float32),
        np.array([[1, -8], [2, 7], [0, 1], [-1, 0]], np.int8),
        np.array([[0.5, 1], [2, 4]], np.float32),
        np.array([[10, 0], [0, -1]], np.float32),
    )
    # 1 * 10.5 + 2 * 11 + 3 * 0 + 4 * -2, and 1 * -8 + 2 * 7 + 3 * 3 + 4 * -1
    np.testing.assert_array_equal(y, [[24.5, 11]])


def test_an_unsigned_code_with_a_zero_point_is_a_signed_one_with_an_offset() -> None:
    codes, zero_points = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
    scales = RANDOM.uniform(1e-4, 2, 16).astype(np.float16)
    offsets = (8 - zero_points[:1]) * scales.astype(np.float32)
    weights = linear_w4a16(
        np.eye(16, dtype=np.float32), codes.astype(np.int8) - 8, scales[None], offsets
    )
    np.testing.assert_array_equal(weights, (codes - zero_points) * scales.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("leading", "k", "group", "n"),
    [((2, 3), 64, 16, 5), ((1,), 32, 32, 1), ((3, 1, 2), 96, 32, 7), ((1, 1), 256, 16, 2)],
)
def test_the_body_is_the_reference(
    run_op: Run, leading: tuple[int, ...], k: int, group: int, n: int, dtype: type
) -> None:
    inputs = random_inputs(leading, (), k, group, n, dtype)
    (y,) = run_op(LINEAR_W4A16, *inputs, block_size=group)
    require_near(y, inputs)


def test_a_stack_of_experts_multiplies_each_by_its_own(run_op: Run) -> None:
    inputs = random_inputs((1, 5), (3,), 64, 32, 4, np.float32)
    (y,) = run_op(LINEAR_W4A16, *inputs, block_size=32)
    assert y.shape == (3, 5, 4)
    require_near(y, inputs)


def random_inputs(
    leading: tuple[int, ...], experts: tuple[int, ...], k: int, group: int, n: int, dtype: type
) -> list[np.ndarray]:
    """Return x, codes, scales of the type `dtype`, and offsets in float32."""
    groups = (*experts, k // group, n)
    return [
        RANDOM.standard_normal((*leading, k)).astype(dtype),
        RANDOM.integers(-8, 8, (*experts, k, n)).astype(ml_dtypes.int4),
        RANDOM.uniform(0.01, 0.1, groups).astype(dtype),
        RANDOM.standard_normal(groups).astype(np.float32),
    ]


def require_near(y: np.ndarray, inputs: list[np.ndarray]) -> None:
    x, codes, scales, offsets = inputs
    wanted = linear_w4a16(x, codes.astype(np.int8), scales, offsets)
    assert (y.shape, y.dtype) == (wanted.shape, x.dtype)
    largest = np.abs(wanted.astype(np.float32)).max()
    # fp16 rounds the part of the codes by itself, and the whole
    tolerance = (1e-5 if x.dtype == np.float32 else 4e-3) * largest
    np.testing.assert_allclose(
        y.astype(np.float32), wanted.astype(np.float32), rtol=0, atol=tolerance
    )
