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

from castline.exporters.retype import retype

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


STEP_BY_STEP = ["bloom", "falcon, one key head", "falcon, new decoder", "falcon, ALiBi", "gemma2"]


@pytest.mark.parametrize("name", STEP_BY_STEP)
def test_padding_is_finite_in_float16(
    name: str, sample: Callable[[str], Any], session: Any, differences: Any, tmp_path: Path
) -> None:
    """Masks that are added to the scores must not turn into -inf: rows of padding would be NaN."""
    runtime = session(sample(name).written(tmp_path, ir.DataType.FLOAT16))

    def run(feed: dict[str, Any]) -> list[Any]:
        outputs = runtime.run(None, feed)
        assert all(np.isfinite(array).all() for array in outputs)
        return list(outputs)

    found = differences(sample(name).model, run, padding=5, dtype=np.float16)
    assert max(found.values()) < 2 * FLOAT16_TOLERANCE, found


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


def floats(name: str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 4]))


def constant(name: str, number: float) -> ir.Value:
    value = floats(name)
    value.shape, value.const_value = ir.Shape([]), ir.tensor(np.float32(number))
    return value


def masked_scores(hidden: float, *, direct: bool) -> ir.Model:
    """Return softmax(weight + mask), its mask the number `hidden` where attention_mask is 0.

    `direct` puts the number in the place of the weight there.
    """
    tokens = ir.Value(
        name="attention_mask", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1, 4])
    )
    weight, low, none = floats("weight"), constant("low", hidden), constant("none", 0)
    seen = ir.node("Cast", [tokens], {"to": ir.DataType.BOOL})
    seen.outputs[0].type = ir.TensorType(ir.DataType.BOOL)
    if direct:
        nodes = [seen, ir.node("Where", [seen.outputs[0], weight, low])]
    else:
        mask = ir.node("Where", [seen.outputs[0], none, low])
        nodes = [seen, mask, ir.node("Add", [weight, mask.outputs[0]])]
    nodes.append(ir.node("Softmax", nodes[-1].outputs, {"axis": -1}))
    for number, node in enumerate(nodes):
        node.name, node.outputs[0].name = f"node_{number}", f"value_{number}"
        if number:
            node.outputs[0].type, node.outputs[0].shape = floats("").type, ir.Shape([1, 4])
    graph = ir.Graph(
        [tokens, weight],
        nodes[-1].outputs,
        nodes=nodes,
        initializers=[low, none],
        opset_imports={"": 23},
        name="masked_scores",
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_row_that_sees_nothing_has_probabilities(dtype: ir.DataType, direct: bool) -> None:
    lowest = float(np.finfo(np.float32).min)
    model = masked_scores(lowest, direct=direct)
    retype(model, dtype)
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    weight = np.array([[-9, 2, 3, -50]], dtype.numpy())
    for mask in ([[0, 0, 0, 0]], [[0, 1, 1, 0]]):
        feed = {"attention_mask": np.array(mask), "weight": weight}
        found = evaluator.run(None, feed)[0].astype(np.float32)  # type: ignore[union-attr]
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found.sum(), 1, atol=1e-2)
        if any(mask[0]):
            assert found[0, [0, 3]].tolist() == [0, 0]


@pytest.mark.parametrize("number", [-3e4, 60000.0, -np.inf])
def test_what_fits_is_only_cast(number: float) -> None:
    model = masked_scores(number, direct=False)
    retype(model, ir.DataType.FLOAT16)
    assert [n.op_type for n in model.graph] == ["Cast", "Where", "Cast", "Add", "Softmax"]
