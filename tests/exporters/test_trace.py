from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from castline.exporters.interface import DECODER


@pytest.fixture(scope="module")
def traced(sample: Callable[[str], Any]) -> Any:
    return sample("llama").template.model.graph


def test_inputs_are_the_interface_and_then_every_weight_of_the_kept_layers(
    traced: Any, sample: Callable[[str], Any]
) -> None:
    inputs = [value.name for value in traced.inputs]
    interface = DECODER.input_names(2)
    assert tuple(inputs[: len(interface)]) == interface
    kept = sample("llama").skeleton.model
    assert set(inputs[len(interface) :]) == {name for name, _ in kept.named_parameters()}
    assert tuple(value.name for value in traced.outputs) == DECODER.output_names(2)


def test_norms_rotations_and_attention_are_single_nodes(traced: Any) -> None:
    counts = Counter(node.op_type for node in traced)
    assert counts["Attention"] == 2
    assert counts["RotaryEmbedding"] == 4
    assert counts["RMSNormalization"] == 5
    assert counts["Cos"] == counts["Sin"] == 1


def test_attention_groups_the_heads_itself(traced: Any) -> None:
    """Key and value reach Attention with their own two heads, not repeated to four."""
    for node in traced:
        if node.op_type == "Attention":
            assert [value.shape[1] for value in node.inputs[:3]] == [4, 2, 2]


def test_no_constant_is_as_large_as_a_weight(traced: Any) -> None:
    assert all(value.const_value.size <= 64 for value in traced.initializers.values())
    assert not any(str(name).startswith("m.") for name in traced.initializers)


def test_an_encoder_gives_its_hidden_states_and_no_cache(sample: Callable[[str], Any]) -> None:
    bert = sample("bert")
    graph = bert.template.model.graph
    inputs = [str(value.name) for value in graph.inputs]
    assert inputs[:3] == ["input_ids", "attention_mask", "token_type_ids"]
    assert set(inputs[3:]) == {name for name, _ in bert.skeleton.model.named_parameters()}
    assert [value.name for value in graph.outputs] == ["last_hidden_state"]
    assert bert.template.epilogue == ()
