"""A model without weights is filled by name, in parts or as a whole, and can be emptied again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.torch_model import (
    TorchWeights,
    assign,
    empty_model,
    filled_model,
    named_tensors,
    positions,
    token_inputs,
)

TOKENS = torch.tensor([[3, 7, 1, 9], [2, 2, 8, 5]])
UP = "model.layers.1.mlp.up_proj.weight"
Samples = Callable[[str], Any]


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gpt2", "bloom"])
def test_a_filled_model_is_the_checkpoints(sample: Samples, name: str) -> None:
    tiny = sample(name)
    model = filled_model(tiny.checkpoint(), AutoModelForCausalLM, torch.float32)
    with torch.inference_mode():
        found, expected = (each(TOKENS).logits for each in (model, tiny.model))
    torch.testing.assert_close(found, expected)
    assert not model.training
    assert not any(value.requires_grad for value in model.parameters())


def test_an_empty_model_holds_no_weights_and_its_buffers(sample: Samples) -> None:
    model = empty_model(sample("llama").checkpoint(), AutoModelForCausalLM, torch.float32)
    assert all(value.is_meta for value in model.parameters())
    assert not any(value.is_meta for value in model.buffers())


def test_an_encoder_has_no_pooler(sample: Samples) -> None:
    model = empty_model(sample("bert").checkpoint(), AutoModel, torch.float32)
    assert model.pooler is None


def test_what_transformers_cannot_build_is_refused(sample: Samples) -> None:
    checkpoint = sample("distilbert").checkpoint()
    with pytest.raises(
        UnsupportedArchitectureError, match="cannot build distilbert as a language model"
    ):
        empty_model(checkpoint, AutoModelForCausalLM, torch.float32)


def test_only_what_is_asked_for_is_filled_and_dropped(sample: Samples) -> None:
    checkpoint = sample("llama").checkpoint()
    model = empty_model(checkpoint, AutoModelForCausalLM, torch.float32)
    weights = TorchWeights(model, checkpoint, torch.float32)
    weights.fill([UP])
    held = {name for name, value in named_tensors(model) if not value.is_meta}
    assert held == {UP}
    assert set(checkpoint.reader.reads) == {UP}
    np.testing.assert_array_equal(dict(named_tensors(model))[UP].numpy(), checkpoint.read(UP))
    weights.drop([UP])
    assert all(value.is_meta for _, value in named_tensors(model))
    weights.fill()
    assert not any(value.is_meta for _, value in named_tensors(model))


def test_names_are_those_of_all_weights_tied_ones_too(sample: Samples) -> None:
    tiny = sample("gemma")
    model = empty_model(tiny.checkpoint(), AutoModelForCausalLM, torch.float32)
    names = TorchWeights(model, tiny.checkpoint(), torch.float32).names
    assert set(names) == {name for name, _ in named_tensors(tiny.model)}
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(names)


def test_a_tied_weight_is_in_memory_once(sample: Samples) -> None:
    model = filled_model(sample("gemma").checkpoint(), AutoModelForCausalLM, torch.float32)
    tensors = dict(named_tensors(model))
    assert tensors["lm_head.weight"].data_ptr() == tensors["model.embed_tokens.weight"].data_ptr()


def test_what_is_missing_or_misshapen_is_named_together(sample: Samples) -> None:
    arrays = sample("llama").arrays()
    del arrays["model.norm.weight"]
    arrays[UP] = arrays[UP][:, :5]
    expected = rf"model.norm.weight is missing; {UP} is \[96, 5\], expected \[96, 64\]"
    with pytest.raises(CheckpointError, match=expected):
        filled_model(sample("llama").checkpoint(arrays), AutoModelForCausalLM, torch.float32)


def test_weights_are_in_the_type_that_is_asked_for(sample: Samples) -> None:
    model = filled_model(sample("qwen3_moe").checkpoint(), AutoModelForCausalLM, torch.float16)
    tensors = dict(named_tensors(model))
    stack = tensors["model.layers.0.mlp.experts.down_proj"]
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    expected = sample("qwen3_moe").arrays()["model.layers.0.mlp.experts.down_proj"]
    np.testing.assert_array_equal(stack.numpy(), expected.astype(np.float16))


def test_the_checkpoints_arrays_are_copied(sample: Samples) -> None:
    arrays = {name: array.copy() for name, array in sample("llama").arrays().items()}
    model = filled_model(sample("llama").checkpoint(arrays), AutoModelForCausalLM, torch.float32)
    dict(named_tensors(model))[UP].data.zero_()
    assert np.abs(arrays[UP]).max() > 0


def test_parameters_and_buffers_are_put_in_their_places() -> None:
    model = torch.nn.Module()
    model.add_module("norm", torch.nn.BatchNorm1d(2))
    assign(model, "norm.weight", torch.full((2,), 3.0))  # type: ignore[arg-type]
    assign(model, "norm.running_mean", torch.full((2,), 4.0))  # type: ignore[arg-type]
    norm = model.get_submodule("norm")
    assert norm.weight.tolist() == [3, 3]
    assert isinstance(norm.weight, torch.nn.Parameter)
    assert not norm.weight.requires_grad
    assert norm.running_mean.tolist() == [4, 4]
    assert not isinstance(norm.running_mean, torch.nn.Parameter)


def test_positions_count_what_is_no_padding() -> None:
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_positions_are_said_to_models_that_take_them(sample: Samples) -> None:
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[0, :3] = 0
    found = token_inputs(sample("llama").model, TOKENS, mask)
    assert found["position_ids"].tolist() == [[0, 0, 1, 2], [2, 3, 4, 5]]
    assert found["input_ids"] is TOKENS
    assert found["attention_mask"] is mask
    assert "position_ids" not in token_inputs(sample("bloom").model, TOKENS, mask)


def test_rows_have_the_models_dtype_and_only_what_is_there_in_its_shape_is_stored(
    sample: Samples,
) -> None:
    arrays = sample("llama").arrays()
    arrays["model.norm.weight"] = arrays["model.norm.weight"][:-1]
    checkpoint = sample("llama").checkpoint(arrays)
    model = empty_model(checkpoint, AutoModelForCausalLM, torch.float16)
    weights = TorchWeights(model, checkpoint, torch.float16)
    rows = weights.rows_of(UP)(torch.tensor([[4, 0]]).flatten())
    assert torch.equal(rows, torch.from_numpy(arrays[UP][[4, 0]]).half())
    assert weights.stores(UP)
    assert not weights.stores("model.norm.weight")
