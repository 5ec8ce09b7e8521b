"""Logits that a sampler reads are float32, those of a long prompt as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from castline.compiler.targets.tensorrt.float_logits import CAST
from castline.compiler.targets.tensorrt.hand_over import hand_over


def narrow(model: ir.Model, dtype: ir.DataType) -> ir.Model:
    """Let a decoder give its logits in another type."""
    logits = model.graph.outputs[0]
    cast = ir.node("Cast", [logits], {"to": dtype}, name="/narrow")
    model.graph.append(cast)
    made = cast.outputs[0]
    made.shape, made.type = logits.shape, ir.TensorType(dtype)
    model.graph.outputs[0] = made
    logits.name, made.name = "wide_logits", "logits"
    return model


@pytest.mark.parametrize(
    ("dtype", "logits", "due"),
    [
        (ir.DataType.BFLOAT16, "all", True),
        (ir.DataType.FLOAT16, "last", True),
        (ir.DataType.FLOAT16, "all", False),
        (ir.DataType.FLOAT, "last", False),
    ],
)
def test_logits_that_a_sampler_reads_are_float32(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    tmp_path: Path,
    dtype: ir.DataType,
    logits: Any,
    due: bool,
) -> None:
    model = written(narrow(tiny("llama").model(), dtype))
    proto = onnx.load(hand_over(model, folder(tmp_path), logits=logits), load_external_data=False)
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    copy = proto.graph
    assert (copy.node[-1].name == CAST) is due
    kind = copy.output[0].type.tensor_type.elem_type
    assert kind == (TensorProto.FLOAT if due else dtype)
    assert copy.node[-1].output[0] == copy.output[0].name == "logits"


def folder(tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    path.mkdir()
    return path


def test_a_graph_without_logits_stays(save_linear: Callable[..., Path], tmp_path: Path) -> None:
    model = save_linear(external=True)
    assert hand_over(model, folder(tmp_path)) == model
