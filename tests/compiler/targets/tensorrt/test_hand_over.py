"""Hand a saved model over to TensorRT: add what only TensorRT reads, leave the weights alone."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from castline.compiler.passes.fixed_cache import FixedCache
from castline.compiler.targets.context import note_capacity
from castline.compiler.targets.last_logits import LAST_TOKEN
from castline.compiler.targets.tensorrt.hand_over import hand_over
from castline.compiler.targets.tensorrt.refusals import refusals

SaveAttention = Callable[..., Path]
SaveLinear = Callable[..., Path]


def graph_of(model: Path) -> onnx.GraphProto:
    return onnx.load(model, load_external_data=False).graph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    path.mkdir()
    return path


def test_a_model_without_attention_is_handed_over_as_it_is(
    save_linear: SaveLinear, folder: Path
) -> None:
    model = save_linear(external=True)
    assert hand_over(model, folder) == model
    assert list(folder.iterdir()) == []


def test_a_marked_model_is_handed_over_as_it_is(
    save_attention: SaveAttention, folder: Path
) -> None:
    model = save_attention(marked=True)
    assert hand_over(model, folder) == model


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_attention_is_marked_in_a_copy(
    save_attention: SaveAttention, folder: Path, dtype: int
) -> None:
    model = save_attention(dtype, external=True)
    before = model.read_bytes()

    copy = hand_over(model, folder)

    assert model.read_bytes() == before
    assert refusals(copy) == ()
    weights = folder / "model.onnx.data"
    assert weights.is_symlink()
    assert weights.resolve() == model.parent / "model.onnx.data"
    marks = {node.name: node.attribute for node in graph_of(copy).node}
    assert [a.name for a in marks["layers.0.attention"] if a.i == 1] == ["TRT_decomposable"]


def test_the_copy_differs_by_the_mark_alone(save_attention: SaveAttention, folder: Path) -> None:
    model = save_attention(TensorProto.BFLOAT16, external=True)
    copy = onnx.load(hand_over(model, folder), load_external_data=False)
    original = onnx.load(model, load_external_data=False)
    assert copy.ir_version == original.ir_version
    assert [(o.domain, o.version) for o in copy.opset_import if o.domain == ""] == [("", 23)]
    assert list(copy.graph.input) == list(original.graph.input)
    assert list(copy.graph.output) == list(original.graph.output)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    assert [tensors[tensor.name] for tensor in original.graph.initializer] == list(
        original.graph.initializer
    )
    for node in copy.graph.node:
        unmarked = [a for a in node.attribute if a.name != "TRT_decomposable"]
        del node.attribute[:]
        node.attribute.extend(unmarked)
    assert list(copy.graph.node) == list(original.graph.node)


def test_int4_references_survive_the_copy(
    save_linear: SaveLinear, save_attention: SaveAttention, folder: Path
) -> None:
    low_bit = onnx.load(save_linear(block=32, external=True), load_external_data=False)
    weights = [t for t in low_bit.graph.initializer if t.data_type == TensorProto.INT4]
    data = save_linear(block=32, external=True).parent / "model.onnx.data"
    stored = data.read_bytes()
    model = save_attention()
    data.write_bytes(stored)
    both = onnx.load(model)
    both.graph.initializer.extend(weights)
    both.graph.node.append(helper.make_node("Identity", ["proj.weight"], ["also"], "also"))
    both.graph.output.append(helper.make_tensor_value_info("also", TensorProto.INT4, [64, 16]))
    onnx.save(both, model)
    tensors = {tensor.name: tensor for tensor in graph_of(hand_over(model, folder)).initializer}
    assert tensors["proj.weight"] == weights[0]


def test_plugins_keep_their_bodies(save_packed: Callable[..., Path], folder: Path) -> None:
    model = save_packed()
    assert hand_over(model, folder) == model


def test_plugins_keep_their_bodies_beside_ops_that_lose_them(
    save_packed: Callable[..., Path], save_offsets: Callable[..., Path], folder: Path
) -> None:
    packed, both = ir.load(save_packed()), ir.load(save_offsets())
    node, x = packed.graph[0], both.graph.inputs[0]
    packed.graph.outputs.clear()
    packed.graph.remove(node)
    for value in node.inputs[1:]:
        assert value is not None
        assert value.const_value is not None
        packed.graph.initializers.pop(str(value.name))
        value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
        both.graph.initializers.add(value)
    node.replace_input_with(0, x)
    both.graph.append(node)
    both.graph.outputs.append(node.outputs[0])
    node.outputs[0].name = "packed_y"
    both.functions.update(packed.functions)
    both.opset_imports.update(packed.opset_imports)
    path = folder.parent / "model" / "model.onnx"
    ir.save(both, path)
    copy = onnx.load(hand_over(path, folder), load_external_data=False)
    assert [function.name for function in copy.functions] == ["PackedLinearW4A16"]
    operators = Counter(node.op_type for node in copy.graph.node)
    assert (operators["PackedLinearW4A16"], operators["LinearW4A16"]) == (1, 0)
    attributes = next(n for n in copy.graph.node if n.op_type == "PackedLinearW4A16").attribute
    assert {a.name: a.i for a in attributes}["block_size"] == 32


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_our_products_become_what_they_are_made_of_and_share_their_sums(
    save_offsets: Callable[..., Path], folder: Path, dtype: int
) -> None:
    model = save_offsets(dtype=dtype)
    copy = hand_over(model, folder)
    assert copy != model
    made = onnx.load(copy, load_external_data=False)
    assert not made.functions
    operators = Counter(node.op_type for node in made.graph.node)
    assert (operators["DequantizeLinear"], operators["MatMul"]) == (2, 4)
    assert operators["ReduceSum"] == 1, "both read one value"
    assert "LinearW4A16" not in operators
    weights = folder / "model.onnx.data"
    assert weights.is_symlink()
    weights.unlink()  # ONNX Runtime follows no links out of a folder
    shutil.copy(model.with_name(weights.name), weights)
    x = np.random.default_rng(1).standard_normal((1, 3, 64))
    x = x.astype(helper.tensor_dtype_to_np_dtype(dtype))
    expected, found = (
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
            None, {"inputs_embeds": x}
        )[0]
        for file in (model, copy)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


def sizes_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def test_the_last_logits_are_cut_in_the_copy_alone(
    tiny: Callable[[str], Any], folder: Path
) -> None:
    model = tiny("llama").graph
    before = model.read_bytes()
    copy = graph_of(hand_over(model, folder, logits="last"))
    assert [node.name for node in copy.node if node.op_type == "Slice"] == [LAST_TOKEN]
    assert sizes_of(copy.output[0]) == ["batch_size", 1, 160]
    assert model.read_bytes() == before


def test_a_fixed_cache_gets_its_capacity(
    tiny: Callable[[str], Any], written: Callable[[ir.Model], Path], folder: Path
) -> None:
    model = tiny("llama").model()
    FixedCache()(model)
    note_capacity(model, 48)
    copy = graph_of(hand_over(written(model), folder))
    values = {value.name: sizes_of(value) for value in (*copy.input, *copy.output)}
    assert values["past_key_values.1.value"] == ["batch_size", 2, 48, 32]
    assert values["present.1.value"] == ["batch_size", 2, 48, 32]
    assert values["attention_mask"] == ["batch_size", 48]
    assert values["write_indices"] == ["batch_size"]


def test_the_weights_are_never_opened(
    tiny: Callable[[str], Any], tmp_path: Path, folder: Path
) -> None:
    """A file of a terabyte without content stands for the weights."""
    source = tmp_path / "source"
    source.mkdir()
    model = Path(shutil.copy(tiny("llama").graph, source))
    with (source / "model.onnx.data").open("wb") as weights:
        weights.truncate(2**40)
    (source / "model.onnx.data").chmod(0)
    copy = hand_over(model, folder, logits="last")
    assert (folder / "model.onnx.data").resolve() == source / "model.onnx.data"
    tensors = {tensor.name: tensor for tensor in graph_of(copy).initializer}
    for tensor in graph_of(model).initializer:
        assert tensors[tensor.name] == tensor
