"""Sums of products by 4-bit codes are exact, and the bodies do what the references say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from castline.plugins.four_bit_product import linear_w4, linear_w4_asymmetric
from castline.plugins.linear_w4a4.op import LINEAR_W4A4, LINEAR_W4A4_ASYMMETRIC
from castline.plugins.linear_w4a8.op import LINEAR_W4A8, LINEAR_W4A8_ASYMMETRIC
from castline.plugins.op import PluginOp

Run = Callable[..., list[np.ndarray]]
RANDOM = np.random.default_rng(0)
RANGES = {ml_dtypes.int4: (-8, 8), ml_dtypes.uint4: (0, 16)}
OPS = {8: (LINEAR_W4A8, LINEAR_W4A8_ASYMMETRIC), 4: (LINEAR_W4A4, LINEAR_W4A4_ASYMMETRIC)}


def codes(bits: int, *shape: int) -> np.ndarray:
    return RANDOM.integers(-(1 << bits - 1), 1 << bits - 1, shape).astype(np.int8)


def weights(kind: type, *shape: int) -> np.ndarray:
    return RANDOM.integers(*RANGES[kind], shape).astype(kind)


def test_the_reference_multiplies_what_the_codes_stand_for() -> None:
    y = linear_w4(
        np.array([[1, 2], [-3, 4]], np.int8),
        np.array([[0.5], [2]], np.float32),
        np.array([[5, 2, 0], [15, 10, 1]], ml_dtypes.uint4),
        np.array([1, 0.25, 10], np.float32),
        np.array([8, 2, 0], ml_dtypes.uint4),
    )
    # Weights are [-3, 0, 0] and [7, 8, 1].
    np.testing.assert_array_equal(y, [[5.5, 2, 10], [74, 16, 80]])


def test_the_zero_point_of_a_token_is_no_part_of_the_product() -> None:
    moved, matrix = codes(8, 3, 5), weights(ml_dtypes.uint4, 5, 4)
    zero, weight_zero = np.array([[3], [-128], [0]], np.int8), weights(ml_dtypes.uint4, 4)
    one = np.ones(1, np.float32)
    exact = (moved.astype(np.int64) - zero) @ (matrix.astype(int) - weight_zero.astype(int))
    found = linear_w4_asymmetric(moved, one, zero, matrix, one, weight_zero)
    np.testing.assert_array_equal(found, exact.astype(np.float32))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("per_token", [True, False], ids=["per token", "per tensor"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", list(RANGES), ids=["int4", "uint4"])
@pytest.mark.parametrize(("k", "n"), [(64, 32), (33, 7), (1, 1), (1025, 3)])
def test_the_body_is_the_reference(
    run_op: Run, k: int, n: int, kind: type, dtype: type, per_token: bool, bits: int
) -> None:
    x, matrix, weight_zero = codes(bits, 2, 3, k), weights(kind, k, n), weights(kind, n)
    scale = RANDOM.uniform(0.001, 0.1, (2, 3, 1) if per_token else ()).astype(np.float32)
    weight_scale = RANDOM.uniform(1e-3, 1e-2, n).astype(dtype)
    zero, of_weights = codes(bits, *scale.shape), (matrix, weight_scale, weight_zero)
    op, asymmetric = OPS[bits]
    found = run_op(op, x, scale, *of_weights)[0]
    np.testing.assert_array_equal(found, linear_w4(x, scale, *of_weights), strict=True)
    found = run_op(asymmetric, x, scale, zero, *of_weights)[0]
    wanted = linear_w4_asymmetric(x, scale, zero, *of_weights)
    np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize("kind", list(RANGES), ids=["int4", "uint4"])
def test_weights_with_one_scale_have_one_zero_point(run_op: Run, kind: type) -> None:
    x, matrix = codes(8, 2, 6), weights(kind, 6, 4)
    scale, one, zero = np.ones((2, 1), np.float32), np.ones((), np.float32), np.array(3, kind)
    (found,) = run_op(LINEAR_W4A8, x, scale, matrix, one, zero)
    np.testing.assert_array_equal(found, linear_w4(x, scale, matrix, one, zero), strict=True)


@pytest.mark.parametrize(("code", "weight", "zero"), [(127, 15, 0), (-128, 15, 0), (-128, 0, 15)])
def test_the_largest_sums_do_not_saturate(run_op: Run, code: int, weight: int, zero: int) -> None:
    k = 4096
    x, matrix = np.full((1, k), code, np.int8), np.full((k, 2), weight, ml_dtypes.uint4)
    one = np.ones((), np.float32)
    (y,) = run_op(LINEAR_W4A8, x, one, matrix, np.ones(2, np.float32), np.full(2, zero, "uint4"))
    np.testing.assert_array_equal(y, np.full((1, 2), code * (weight - zero) * k, np.float32))


@pytest.mark.parametrize("op", [op for pair in OPS.values() for op in pair], ids=lambda op: op.name)
def test_onnx_runtime_widens_the_weights_when_it_loads_them(
    one_node: Callable[..., ir.Model], op: PluginOp, tmp_path: Path
) -> None:
    k, n = 128, 64
    of_tokens = (codes(4, 1, k), np.ones((1, 1), np.float32), codes(4, 1, 1))
    matrix, zeros = weights(ml_dtypes.uint4, k, n), weights(ml_dtypes.uint4, n)
    inputs = [
        *of_tokens[: 3 if "zero_point" in op.inputs else 2],
        *(matrix, np.ones(n, np.float32), zeros),
    ]
    file, optimized = tmp_path / "op.onnx", tmp_path / "optimized.onnx"
    ir.save(one_node(op, inputs, {}), file)
    assert file.stat().st_size < k * n, "half of it are codes"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4  # it warns that the file is for this machine
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    stored = onnx.load(optimized).graph.initializer
    held = [onnx.numpy_helper.to_array(tensor) for tensor in stored]
    (widened,) = [array for array in held if array.size == k * n]
    np.testing.assert_array_equal(widened, matrix.astype(np.int8), strict=True)
    assert sum(array.nbytes for array in held) < k * n + 16 * n, "and no other form of them"
