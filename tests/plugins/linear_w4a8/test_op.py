"""Groups with integer scales are summed in integers, and the body does what the reference says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from castline.plugins.linear_w4a8.op import (
    LINEAR_W4A8_GROUPS,
    LINEAR_W4A8_GROUPS_ASYMMETRIC,
    int8_weights,
    linear_w4a8_groups,
    linear_w4a8_groups_asymmetric,
)
from castline.plugins.op import PluginOp

Run = Callable[..., list[np.ndarray]]
RANDOM = np.random.default_rng(0)
OPS = (LINEAR_W4A8_GROUPS, LINEAR_W4A8_GROUPS_ASYMMETRIC)


def codes(*shape: int) -> np.ndarray:
    return RANDOM.integers(-128, 128, shape).astype(np.int8)


def weights(k: int, n: int, block: int, dtype: type = np.float32) -> tuple[np.ndarray, ...]:
    """Return codes [K, N], scales of groups [K / block, N] and of channels [N]."""
    return (
        RANDOM.integers(-8, 8, (k, n)).astype(ml_dtypes.int4),
        RANDOM.integers(1, 17, (k // block, n)).astype(np.int8),
        RANDOM.uniform(1e-3, 1e-2, n).astype(dtype),
    )


def test_the_reference_multiplies_each_group_by_its_own_scale() -> None:
    y = linear_w4a8_groups(
        np.array([[1, 2, 3, 4]], np.int8),
        np.array([[0.5]], np.float32),
        np.array([[1, -8], [2, 0], [3, 7], [-1, 1]], ml_dtypes.int4),
        np.array([[10, 16], [2, 3]], np.int8),
        np.array([1, 0.25], np.float32),
    )
    # In whole numbers: 10 (1 + 4) + 2 (9 - 4) = 60 and 16 (-8) + 3 (21 + 4) = -53.
    np.testing.assert_array_equal(y, [[30, -6.625]])


def test_the_zero_point_of_a_token_is_no_part_of_the_product() -> None:
    x, (matrix, groups, _) = codes(3, 6), weights(6, 4, 3)
    zero, one = np.array([[3], [-128], [0]], np.int8), np.ones(1, np.float32)
    exact = (x.astype(np.int64) - zero) @ (matrix.astype(int) * groups.repeat(3, 0))
    found = linear_w4a8_groups_asymmetric(x, one, zero, matrix, groups, one)
    np.testing.assert_array_equal(found, exact.astype(np.float32))


def test_int8_holds_the_least_code_sixteen_times_and_the_largest_eighteen() -> None:
    matrix = np.array([[-8, 7]], ml_dtypes.int4)
    np.testing.assert_array_equal(int8_weights(matrix, np.array([[16, 18]])), [[-128, 126]])
    for too_large in ([[17, 1]], [[1, 19]]):
        with pytest.raises(AssertionError, match="within INT8"):
            int8_weights(matrix, np.array(too_large))


@pytest.mark.parametrize("per_token", [True, False], ids=["per token", "per tensor"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("k", "n", "block"), [(64, 32, 16), (32, 7, 32), (2, 1, 1), (1026, 3, 2)])
def test_the_body_is_the_reference(
    run_op: Run, k: int, n: int, block: int, dtype: type, per_token: bool
) -> None:
    x, of_weights = codes(2, 3, k), weights(k, n, block, dtype)
    scale = RANDOM.uniform(0.001, 0.1, (2, 3, 1) if per_token else ()).astype(np.float32)
    zero = codes(*scale.shape)
    (found,) = run_op(LINEAR_W4A8_GROUPS, x, scale, *of_weights, block_size=block)
    wanted = linear_w4a8_groups(x, scale, *of_weights)
    np.testing.assert_array_equal(found, wanted, strict=True)
    op = LINEAR_W4A8_GROUPS_ASYMMETRIC
    (found,) = run_op(op, x, scale, zero, *of_weights, block_size=block)
    wanted = linear_w4a8_groups_asymmetric(x, scale, zero, *of_weights)
    np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize(("code", "weight"), [(127, -8), (-128, -8), (-128, 7)])
def test_the_largest_sums_do_not_saturate(run_op: Run, code: int, weight: int) -> None:
    k, one = 4096, np.ones((), np.float32)
    x, matrix = np.full((1, k), code, np.int8), np.full((k, 2), weight, ml_dtypes.int4)
    groups = np.full((32, 2), 16, np.int8)
    (y,) = run_op(
        LINEAR_W4A8_GROUPS, x, one, matrix, groups, np.ones(2, np.float32), block_size=128
    )
    np.testing.assert_array_equal(y, np.full((1, 2), code * weight * 16 * k, np.float32))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_onnx_runtime_multiplies_by_the_groups_when_it_loads_them(
    one_node: Callable[..., ir.Model], op: PluginOp, tmp_path: Path
) -> None:
    k, n, block = 128, 64, 32
    of_tokens = (codes(1, k), np.ones((1, 1), np.float32), codes(1, 1))
    of_weights = weights(k, n, block)
    inputs = [*of_tokens[: 3 if "zero_point" in op.inputs else 2], *of_weights]
    stored = ("weight_codes", "group_scale", "weight_scale")
    file, optimized = tmp_path / "op.onnx", tmp_path / "optimized.onnx"
    ir.save(one_node(op, inputs, {"block_size": block}, stored), file)
    assert file.stat().st_size < k * n, "half of it are codes"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4  # it warns that the file is for this machine
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    held = [onnx.numpy_helper.to_array(t) for t in onnx.load(optimized).graph.initializer]
    (matrix,) = [array for array in held if array.size == k * n]
    np.testing.assert_array_equal(matrix, int8_weights(*of_weights[:2]), strict=True)
    assert sum(array.nbytes for array in held) < k * n + 16 * n, "and no other form of them"
