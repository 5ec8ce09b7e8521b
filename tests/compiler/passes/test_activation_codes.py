"""A value is quantized once for all that read it in the same way."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from castline.compiler.passes.activation_codes import ActivationCodes, StaticGrid
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters

FLOAT = ir.DataType.FLOAT


@pytest.fixture
def model() -> ir.Model:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[T, 8] x) => (float[T, 8] y) '
        "{ y = Neg (x) }"
    )
    model.graph[0].name = "/layer/Neg"
    return model


def writer(model: ir.Model, path: str) -> NodeWriter:
    return NodeWriter(model.graph, path, list(model.graph)[-1])


@pytest.mark.parametrize(("granularity", "scale"), [("per-token", ["T", "1"]), ("per-tensor", [])])
def test_codes_are_typed_and_shared(model: ir.Model, granularity: str, scale: list[str]) -> None:
    scheme = ActivationScheme(8, granularity, dynamic=True)  # type: ignore[arg-type]
    shared, x = ActivationCodes(model), model.graph.inputs[0]
    codes = shared.dynamic(x, scheme, writer(model, "/a"))
    assert shared.dynamic(x, scheme, writer(model, "/b")) is codes
    assert (
        shared.dynamic(x, ActivationScheme(4, "per-token", dynamic=True), writer(model, "/c"))
        != codes
    )
    assert (codes.codes.dtype, codes.scale.dtype) == (ir.DataType.INT8, FLOAT)
    assert codes.scale.shape is not None
    assert [str(size) for size in codes.scale.shape] == scale
    assert codes.zero_point is None


def test_the_float_form_shares_the_codes(model: ir.Model) -> None:
    scheme = ActivationScheme(8, "per-token", dynamic=True)
    shared, x = ActivationCodes(model), model.graph.inputs[0]
    codes = shared.dynamic(x, scheme, writer(model, "/a"))
    value = shared.dynamic_in_float(x, scheme, FLOAT, writer(model, "/b"))
    assert shared.dynamic_in_float(x, scheme, FLOAT, writer(model, "/c")) is value
    assert len(list(codes.codes.uses())) == 1
    assert (value.dtype, value.shape) == (FLOAT, x.shape)


def test_static_grids_of_few_bits_clip_before_they_round(model: ir.Model) -> None:
    shared, x = ActivationCodes(model), model.graph.inputs[0]
    scheme = ActivationScheme(4, "per-tensor", dynamic=False)
    grid = StaticGrid(scheme, QuantParameters(0.5, 0))
    value = shared.static(x, grid, FLOAT, writer(model, "/a"), "layer.q")
    assert shared.static(x, grid, FLOAT, writer(model, "/b"), "layer.k") is value
    assert [n.op_type for n in model.graph] == ["Clip", "QuantizeLinear", "DequantizeLinear", "Neg"]
    stored = {
        name: float(value.const_value.numpy())  # type: ignore[union-attr]
        for name, value in model.graph.initializers.items()
    }
    assert stored == {
        "layer.q.input_scale": 0.5,
        "layer.q.input_zero_point": 0,
        "layer.q.input_least": -4.0,
        "layer.q.input_most": 3.5,
    }


def test_bounds_follow_the_zero_point() -> None:
    scheme = ActivationScheme(4, "per-tensor", dynamic=False, symmetric=False)
    assert StaticGrid(scheme, QuantParameters(9.0, -8)).bounds(0.5) == (0, 7.5)
