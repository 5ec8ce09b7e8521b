"""An architecture that no test covers is held against its own code, and refused if it differs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    ModernBertConfig,
    PretrainedConfig,
    Starcoder2Config,
)

from castline.compiler.check.trial import try_out
from castline.errors import UnsupportedArchitectureError
from castline.exporters.checkpoint import open_checkpoint
from castline.exporters.export import CutModel, export

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 131,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "decoder": Starcoder2Config(**SIZES, num_key_value_heads=2),
    "encoder": ModernBertConfig(
        **SIZES, cls_token_id=1, sep_token_id=2, local_attention=8, global_attn_every_n_layers=2
    ),
}
SOUND = 1e-5
Tried = Callable[[str], CutModel]


@pytest.fixture(scope="module")
def untried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """Return a few layers of a model whose architecture is none of those that are proven."""

    @cache
    def of(name: str) -> CutModel:
        folder = tmp_path_factory.mktemp(name)
        builder = AutoModelForCausalLM if name == "decoder" else AutoModel
        builder.from_config(CONFIGS[name]).save_pretrained(folder)
        cut = export(open_checkpoint(folder)).untried
        assert cut is not None
        return cut

    return of


def rotary_frequencies(graph: ir.Model) -> ir.Value:
    """Return the only constant numbers that are not alone; the weights are inputs."""
    found = [
        value
        for value in graph.graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype == ir.DataType.FLOAT
        and value.const_value.size > 1
    ]
    assert len(found) == 1
    return found[0]


def copied(cut: CutModel) -> CutModel:
    return dataclasses.replace(cut, graph=cut.graph.clone())


@pytest.mark.parametrize("name", CONFIGS)
def test_passes_an_unknown_architecture_that_is_sound(name: str, untried: Tried) -> None:
    assert try_out(untried(name)) < SOUND


def test_refuses_a_graph_that_differs_and_tells_by_how_much(untried: Tried) -> None:
    cut = copied(untried("decoder"))
    frequencies = rotary_frequencies(cut.graph)
    assert frequencies.const_value is not None
    changed = frequencies.const_value.numpy() * np.float32(1.1)
    frequencies.const_value = ir.tensor(changed, name=frequencies.name)
    with pytest.raises(UnsupportedArchitectureError) as error:
        try_out(cut)
    told = re.fullmatch(
        r"Starcoder2ForCausalLM was tried .* differs .* by ([\d.e-]+) of the largest value "
        r"\(at most 1e-04 is allowed\)\. The architecture is not exported.*",
        str(error.value),
    )
    assert told is not None
    assert 1e-3 < float(told[1]) < 1


def test_sees_a_nan_that_only_padding_brings(untried: Tried) -> None:
    """0 / min(attention_mask) is added to the logits: 0, or NaN as soon as a token is padding."""
    cut = copied(untried("decoder"))
    graph = cut.graph.graph
    mask = next(value for value in graph.inputs if value.name == "attention_mask")
    logits = graph.outputs[0]
    least = ir.node("ReduceMin", [mask], {"keepdims": 0})
    divisor = ir.node("Cast", least.outputs, {"to": ir.DataType.FLOAT})
    nothing = ir.node("Sub", [divisor.outputs[0], divisor.outputs[0]])
    added = ir.node("Div", [nothing.outputs[0], divisor.outputs[0]])
    poisoned = ir.node("Add", [logits, added.outputs[0]])
    graph.extend([least, divisor, nothing, added, poisoned])
    poisoned.outputs[0].type, poisoned.outputs[0].shape = logits.type, logits.shape
    logits.name, poisoned.outputs[0].name = "clean", "logits"
    graph.outputs[0] = poisoned.outputs[0]
    with pytest.raises(UnsupportedArchitectureError, match="by nan of the largest value"):
        try_out(cut)


def test_refuses_a_graph_that_does_not_run(untried: Tried) -> None:
    cut = copied(untried("decoder"))
    norm = next(n for n in cut.graph.graph if n.op_type == "LayerNormalization")
    norm.op_type = "Unheard"
    with pytest.raises(UnsupportedArchitectureError, match=r"does not run: .*Unheard"):
        try_out(cut)


def test_refuses_what_cannot_be_tried_for_want_of_memory(untried: Tried) -> None:
    cut = untried("decoder")
    needed = int(cut.model.num_parameters() * 4 * 1.5)
    with pytest.raises(
        UnsupportedArchitectureError,
        match=r"Starcoder2ForCausalLM is none of .* takes about 0\.0 GB .* are available",
    ):
        try_out(cut, available=needed - 1)
    assert try_out(cut, available=needed) < SOUND
