from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

# Half of the last place is 4.9e-4 in float16 and 3.9e-3 in bfloat16, and roundings add up along
# the layers; the samples measure up to 2.5e-3 and 1.3e-2.
FLOAT16_TOLERANCE = 1e-2
BFLOAT16_TOLERANCE = 5e-2

HALVES = [ir.DataType.FLOAT16, ir.DataType.BFLOAT16]


def test_float16_is_near_the_float32_model(
    each_sample: Any, session: Any, differences: Any, tmp_path: Path
) -> None:
    runtime = session(each_sample.written(tmp_path, ir.DataType.FLOAT16))
    found = differences(
        each_sample.model, lambda f: runtime.run(None, f), padding=5, dtype=np.float16
    )
    assert max(found.values()) < FLOAT16_TOLERANCE, found


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_bfloat16_is_near_the_float32_model(
    name: str, sample: Callable[[str], Any], differences: Any, tmp_path: Path
) -> None:
    """ONNX Runtime has no bfloat16 MatMul for the CPU, so ONNX's own evaluator computes it."""
    path = sample(name).written(tmp_path, ir.DataType.BFLOAT16)
    evaluator = ReferenceEvaluator(str(path))
    found = differences(
        sample(name).model,
        lambda f: evaluator.run(None, f),
        padding=3,
        dtype=ml_dtypes.bfloat16,
        prompt=12,
    )
    assert max(found.values()) < BFLOAT16_TOLERANCE, found


@pytest.mark.parametrize("dtype", HALVES)
def test_types_agree_throughout(each_sample: Any, dtype: ir.DataType, tmp_path: Path) -> None:
    path = each_sample.written(tmp_path, dtype)
    onnx.checker.check_model(path, full_check=True)
    onnx.shape_inference.infer_shapes_path(
        path, tmp_path / "inferred.onnx", check_type=True, strict_mode=True, data_prop=True
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_weights_caches_and_logits_have_the_type(each_sample: Any, dtype: ir.DataType) -> None:
    graph = each_sample.graph(dtype).graph
    weights = set(each_sample.checkpoint().tensors)
    assert {graph.initializers[name].dtype for name in weights} == {dtype}
    assert {value.dtype for value in graph.outputs} == {dtype}
    integers = ("input_ids", "attention_mask", "position_ids")
    assert {v.dtype for v in graph.inputs if v.name not in integers} == {dtype}


@pytest.mark.parametrize("dtype", HALVES)
def test_positions_stay_float32_and_are_cast_once(each_sample: Any, dtype: ir.DataType) -> None:
    graph = each_sample.graph(dtype).graph
    angles = [node for node in graph if node.op_type in ("Cos", "Sin")]
    assert [node.inputs[0].dtype for node in angles] == [ir.DataType.FLOAT] * 2  # type: ignore[union-attr]
    casts = [n for n in graph if n.op_type == "Cast" and n.outputs[0].dtype == dtype]
    assert len(casts) == 2


def test_float32_is_left_alone(sample: Callable[[str], Any]) -> None:
    graph = sample("llama").graph(ir.DataType.FLOAT).graph
    assert {value.dtype for value in graph.outputs} == {ir.DataType.FLOAT}
