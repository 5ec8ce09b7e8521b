"""Packed codes are multiplied in groups by the body as by the reference, and as by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from castline.plugins.linear_w4a16.packed import (
    PACKED_LINEAR_W4A16,
    PACKED_LINEAR_W4A16_OFFSETS,
    packed_linear_w4a16,
    packed_linear_w4a16_offsets,
)
from castline.plugins.packing import pack, pack_scales

Run = Callable[..., list[np.ndarray]]
RANDOM = np.random.default_rng(0)
CASES = [(64, 16, 32), (96, 7, 32), (128, 33, 64), (256, 20, 128), (48, 5, 48), (576, 40, 64)]
TOLERANCE = {np.float32: 1e-5, np.float16: 4e-3}


def parts(k: int, n: int, group: int, dtype: type) -> tuple[np.ndarray, ...]:
    """Return x, codes [N, K], scales [N, G], zero-points [N, G] and bias."""
    x = RANDOM.standard_normal((2, 3, k)).astype(dtype)
    codes = RANDOM.integers(-8, 8, (n, k)).astype(np.int8)
    scales = RANDOM.uniform(0.01, 0.1, (n, k // group)).astype(dtype)
    zeros = RANDOM.integers(-8, 8, scales.shape).astype(np.int8)
    zeros.flat[0], zeros.flat[-1] = -8, 7
    return x, codes, scales, zeros, RANDOM.standard_normal(n).astype(dtype)


def multiplied(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ weights.T + bias


def assert_near(found: np.ndarray, wanted: np.ndarray, dtype: type) -> None:
    assert found.dtype == dtype
    tolerance = TOLERANCE[dtype] * np.abs(wanted).max()
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("k", "n", "group"), CASES)
def test_zero_points_of_groups(run_op: Run, k: int, n: int, group: int, dtype: type) -> None:
    x, codes, scales, zeros, bias = parts(k, n, group, dtype)
    steps = codes - zeros.repeat(group, axis=1).astype(np.float64)
    wanted = multiplied(x, steps * scales.repeat(group, axis=1), bias)
    inputs = (x, pack(codes, 4), pack_scales(scales), pack_scales(zeros), bias)
    assert_near(packed_linear_w4a16(*inputs), wanted, dtype)
    attributes = {"k": k, "n": n, "block_size": group, "layout_version": 1}
    assert_near(run_op(PACKED_LINEAR_W4A16, *inputs, **attributes)[0], wanted, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("k", "n", "group"), CASES)
def test_offsets_of_groups(run_op: Run, k: int, n: int, group: int, dtype: type) -> None:
    x, codes, scales, _, bias = parts(k, n, group, dtype)
    offsets = RANDOM.standard_normal(scales.shape).astype(np.float32)
    weights = codes * scales.repeat(group, axis=1).astype(np.float64)
    wanted = multiplied(x, weights + offsets.repeat(group, axis=1), bias)
    inputs = (x, pack(codes, 4), pack_scales(scales), pack_scales(offsets), bias)
    assert_near(packed_linear_w4a16_offsets(*inputs), wanted, dtype)
    attributes = {"k": k, "n": n, "block_size": group, "layout_version": 1}
    assert_near(run_op(PACKED_LINEAR_W4A16_OFFSETS, *inputs, **attributes)[0], wanted, dtype)


def test_each_code_is_taken_off_its_zero_point() -> None:
    codes = np.array([[7, -8, 0, 3], [1, 1, 1, 1]], np.int8).repeat(4, axis=1)
    scales, zeros = np.array([[0.5], [2]], np.float32), np.array([[-8], [1]], np.int8)
    x, bias = np.eye(16, dtype=np.float32)[::4], np.array([1, 0], np.float32)
    y = packed_linear_w4a16(x, pack(codes, 4), pack_scales(scales), pack_scales(zeros), bias)
    np.testing.assert_array_equal(y, [[8.5, 0], [1, 0], [5, 0], [6.5, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_onnx_runtime_unpacks_when_it_loads_and_keeps_four_bits(
    one_node: Callable[..., ir.Model], tmp_path: Path, dtype: type
) -> None:
    k, n, group = 256, 128, 64
    x, codes, scales, zeros, bias = parts(k, n, group, dtype)
    inputs = [x, pack(codes, 4), pack_scales(scales), pack_scales(zeros), bias]
    attributes = {"k": k, "n": n, "block_size": group, "layout_version": 1}
    model = one_node(PACKED_LINEAR_W4A16, inputs, attributes, stored=PACKED_LINEAR_W4A16.inputs[1:])
    file, optimized = tmp_path / "op.onnx", tmp_path / "optimized.onnx"
    ir.save(model, file)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4  # it warns that the file is for this machine
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(optimized).graph
    assert {node.op_type for node in loaded.node} <= {"MatMulNBits", "Cast"}
    sizes = sorted(onnx.numpy_helper.to_array(tensor).nbytes for tensor in loaded.initializer)
    assert sizes[-1] == k * n // 2, "codes in no other form"
    assert sum(sizes[:-1]) < k * n // 4
