"""Float32 products of E4M3 codes run on ONNX Runtime, and their values stay the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.float8_casts import Float8Casts
from castline.compiler.passes.quantize_activations_float8 import QuantizeActivationsFloat8
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import WeightScheme

RANDOM = np.random.default_rng(0)
CODES = RANDOM.standard_normal((64, 6)).astype(ml_dtypes.float8_e4m3fn)
SCALE = 1 / 16  # so that nothing but E4M3 rounds


def linear(dtype: type) -> ir.Model:
    """Return x @ W in E4M3 by E4M3; the scale of the weights is 2."""
    kind = "float" if dtype is np.float32 else "float16"
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        linear ({kind}[B, 64] x, {kind}[64, 6] weight) => ({kind}[B, 6] y)
        {{ y = MatMul (x, weight) }}
    """)
    weight = model.graph.inputs.pop(1)
    weight.const_value = ir.Tensor(np.zeros((64, 6), dtype), name="weight")
    model.graph.initializers.add(weight)
    model.graph[0].name = "/layer/MatMul"
    matrix = QuantizedMatrix(CODES, np.full((1, 1), 2, np.float32), None)
    scheme = WeightScheme(8, "per-tensor", True)
    given = GivenCodes(scheme, lambda: (matrix,), float8=True)
    QuantizeWeights(None, given={"weight": given})(model)
    QuantizeActivationsFloat8({"weight": SCALE})(model)
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_onnx_runtime_computes_what_the_codes_stand_for(
    written: Callable[[ir.Model], Path], dtype: type
) -> None:
    model = linear(dtype)
    Float8Casts()(model)
    session = onnxruntime.InferenceSession(written(model), providers=["CPUExecutionProvider"])
    x = (RANDOM.standard_normal((5, 64)) * 10).astype(dtype)
    x[0, :2] = 1000, -1000  # beyond 448 scales
    scale = dtype(SCALE)
    clipped = np.clip(x / scale, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    read = clipped.astype(dtype) * scale
    expected = read.astype(np.float32) @ (CODES.astype(np.float32) * 2)
    (found,) = session.run(None, {"x": x})
    tolerance = 1e-5 if dtype is np.float32 else 4e-3
    assert np.abs(found.astype(np.float32) - expected).max() <= tolerance * np.abs(expected).max()


def test_weights_keep_their_dequantize_linear_and_twice_changes_nothing_more() -> None:
    model = linear(np.float32)
    Float8Casts()(model)
    once = [node.op_type for node in model.graph]
    assert sorted(once) == ["Cast", "DequantizeLinear", "MatMul", "Mul", "QuantizeLinear"]
    Float8Casts()(model)
    assert [node.op_type for node in model.graph] == once
