"""An op is a function that a model carries along."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from castline.plugins.catalogue import OPS
from castline.plugins.op import PluginOp

DOUBLE = PluginOp("Double", ("x",), ("y",), (), "y = Add (x, x)")


def empty() -> ir.Model:
    text = (
        '<ir_version: 10, opset_import: ["" : 23]> g (float[1] x) => (float[1] y) { y = Abs (x) }'
    )
    return ir.from_onnx_text(text)


def test_a_model_with_an_op_says_what_it_means() -> None:
    model = empty()
    DOUBLE.define_in(model)
    assert model.opset_imports["castline"] == 1
    (function,) = ir.to_proto(model).functions
    assert (function.domain, function.name) == ("castline", "Double")
    assert [node.op_type for node in function.node] == ["Add"]


def test_defining_an_op_twice_changes_nothing_more() -> None:
    model = empty()
    DOUBLE.define_in(model)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    DOUBLE.define_in(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once


def test_a_node_is_an_op_by_domain_and_name() -> None:
    assert DOUBLE.is_op_of(ir.node("Double", [], domain="castline"))
    assert not DOUBLE.is_op_of(ir.node("Double", []))
    assert not DOUBLE.is_op_of(None)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_function_is_onnx_with_the_schema_it_states(op: PluginOp) -> None:
    function = ir.to_proto(op.function())
    model = empty()
    op.define_in(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert tuple(function.input) == op.inputs
    assert tuple(function.output) == op.outputs
    assert tuple(function.attribute) == op.attributes


def test_no_two_ops_have_one_name() -> None:
    assert len({op.name for op in OPS}) == len(OPS)
