"""The hidden state that a layer hands on is found by names, in float and in lowered graphs."""

from __future__ import annotations

from typing import Any

import pytest

from castline.compiler.graph.layer_boundaries import (
    embedding_boundary,
    layer_boundaries,
    layer_of,
    module_of,
)
from castline.compiler.passes.skip_norm import SkipNorm


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("/model/layers.3/mlp/Mul_output_0", 3),
        ("/transformer/h.12/Add", 12),
        ("/model/layers.2/mlp/experts.7/MatMul", 2),
        ("/model.decoder.layers.4/fc1/MatMul", 4),
        ("/model/norm/RMSNormalization", None),
        ("model.layers.3.mlp.up_proj.weight", None),
        ("present.0.key", None),
        (None, None),
    ],
)
def test_a_name_tells_the_layer_in_its_outermost_stack(name: str | None, layer: int | None) -> None:
    assert layer_of(name) == layer


def test_every_layer_of_a_decoder_hands_on_its_last_sum(tiny: Any) -> None:
    graph = tiny("llama").model().graph
    found = {layer: value.name for layer, value in layer_boundaries(graph).items()}
    assert found == {i: f"/model/layers.{i}/Add_1_output_0" for i in range(2)}
    embedded = embedding_boundary(graph, 128)
    assert embedded is not None
    assert embedded.name == "/model/embed_tokens/Gather_output_0"


@pytest.mark.parametrize("name", ["gpt2", "opt", "mixtral"])
def test_nodes_that_were_traced_without_a_module_are_of_the_layer_that_reads_them(
    name: str, sample: Any
) -> None:
    graph = sample(name).graph().graph
    boundaries = layer_boundaries(graph)
    assert list(boundaries) == [0, 1, 2]
    width = boundaries[0].shape[-1]
    assert embedding_boundary(graph, width) is not None


def test_the_module_of_a_value_is_what_recipes_name() -> None:
    assert module_of("/model/layers.3/Add_1_output_0") == "model.layers.3"
    assert module_of("/model.decoder.layers.0/Add_output_0") == "model.decoder.layers.0"


def test_sums_that_norms_took_in_are_found_by_the_same_names(tiny: Any) -> None:
    model = tiny("llama").model()
    before = {layer: value.name for layer, value in layer_boundaries(model.graph).items()}
    SkipNorm()(model)
    after = layer_boundaries(model.graph)
    assert {layer: value.name for layer, value in after.items()} == before
    assert {value.producer().op_type for value in after.values()} == {
        "SkipSimplifiedLayerNormalization"
    }


def test_the_last_layer_of_an_encoder_hands_on_the_output_itself(encoder: Any) -> None:
    assert list(layer_boundaries(encoder.model().graph)) == [0]


def test_no_embedding_is_found_of_another_width(tiny: Any) -> None:
    assert embedding_boundary(tiny("llama").model().graph, 127) is None
