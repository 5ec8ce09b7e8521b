from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from castline.exporters import names
from castline.exporters.interface import DECODER
from castline.exporters.stamp import stamp


@pytest.fixture(scope="module")
def stamped(sample: Callable[[str], Any]) -> Callable[[int], ir.Model]:
    """Return the graph of a decoder of so many layers, from one trace of two."""
    llama = sample("llama")

    def of(layers: int) -> ir.Model:
        deep = dataclasses.replace(llama.skeleton, kinds=(0,) * layers)
        return stamp(llama.template, deep)

    return of


def test_nodes_grow_linearly_with_the_layers(stamped: Callable[[int], ir.Model]) -> None:
    counts = [len(stamped(layers).graph) for layers in (2, 3, 4, 40)]
    layer = counts[1] - counts[0]
    assert counts == [counts[0] + layer * (n - 2) for n in (2, 3, 4, 40)]


def test_interface_of_every_layer_is_in_order(stamped: Callable[[int], ir.Model]) -> None:
    graph = stamped(4).graph
    inputs = tuple(str(value.name) for value in graph.inputs)
    assert inputs[: len(DECODER.input_names(4))] == DECODER.input_names(4)
    assert tuple(value.name for value in graph.outputs) == DECODER.output_names(4)


def test_every_layer_reads_its_own_weights(stamped: Callable[[int], ir.Model]) -> None:
    weights = [str(v.name) for v in stamped(12).graph.inputs if not names.is_input(str(v.name))]
    numbers = [re.match(r"model\.layers\.(\d+)\.", name) for name in weights]
    assert len(weights) == len(set(weights)) == 12 * 9 + 3
    for layer in range(12):
        assert sum(n is not None and int(n[1]) == layer for n in numbers) == 9


def test_axes_have_the_names_of_the_ecosystem(stamped: Callable[[int], ir.Model]) -> None:
    graph = stamped(2).graph
    shapes = {v.name: str(v.shape) for v in (*graph.inputs, *graph.outputs)}
    past = "[batch_size,2,past_sequence_length,16]"
    present = "[batch_size,2,total_sequence_length,16]"
    assert shapes["input_ids"] == shapes["position_ids"] == "[batch_size,sequence_length]"
    assert shapes["attention_mask"] == "[batch_size,total_sequence_length]"
    assert shapes["logits"] == "[batch_size,sequence_length,131]"
    assert shapes["past_key_values.0.key"] == shapes["past_key_values.0.value"] == past
    assert shapes["present.0.key"] == shapes["present.0.value"] == present


def test_nodes_are_named_by_their_path(each_sample: Any) -> None:
    nodes = list(stamp(each_sample.template, each_sample.skeleton).graph)
    found = [str(node.name) for node in nodes]
    assert len(found) == len(set(found))
    for node, name in zip(nodes, found, strict=True):
        assert re.fullmatch(rf"/([\w./]+/)?{node.op_type}(_\d+)?", name)
    last = len(each_sample.skeleton.kinds) - 1
    assert f"/model/layers.{last}/self_attn/q_proj/MatMul" in found
    assert f"/model/layers.{last}/mlp/down_proj/MatMul" in found
    assert "/lm_head/MatMul" in found


def test_the_template_is_not_changed(sample: Callable[[str], Any]) -> None:
    llama = sample("llama")
    before = str(llama.template.model)
    stamp(llama.template, llama.skeleton)
    assert str(llama.template.model) == before


def test_kinds_follow_one_another_as_in_the_model(sample: Callable[[str], Any]) -> None:
    """Sliding and full layers are alike but for the mask they read."""
    qwen3 = sample("qwen3")
    masks = [
        node.inputs[3].name  # type: ignore[union-attr]
        for node in stamp(qwen3.template, qwen3.skeleton).graph
        if node.op_type == "Attention"
    ]
    assert qwen3.skeleton.kinds == (0, 1, 1, 0, 1)
    assert masks[1] == masks[2] == masks[4]
    assert masks[0] == masks[3] != masks[1]
