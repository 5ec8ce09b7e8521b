"""Checkpoints of many releases show the parameters that the model of today has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
)
from transformers.core_model_loading import revert_weight_conversion

from castline.errors import CheckpointError
from castline.exporters.checkpoint import Checkpoint, TensorSpec
from castline.exporters.conversion import Conversion, converted
from castline.exporters.readers.stored import StoredLinear, StoredMatrix, StoredScheme
from castline.exporters.readers.stored_codes import CodesOfReader

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "num_local_experts": 3,
}
EXPERT = "model.layers.1.block_sparse_moe.experts"
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"


class Memory:
    """Tensors in memory, and how often each was read."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)
        self.reads: Counter[str] = Counter()
        self.files: tuple[Path, ...] = ()

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        return {name: TensorSpec(a.shape, a.dtype) for name, a in self.arrays.items()}

    def read(self, name: str) -> np.ndarray:
        self.reads[name] += 1
        return self.arrays[name]

    def file_of(self, name: str) -> Path:
        return Path(f"{name}.npy")


def random_model(model_type: str, builder: Any = AutoModelForCausalLM) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES)
    return builder.from_config(config, dtype=torch.float32)


def stored_by(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Return the tensors as save_pretrained writes them, tied ones under both names."""
    state = revert_weight_conversion(model, model.state_dict())
    return {name: tensor.numpy() for name, tensor in state.items()}


def own(model: PreTrainedModel) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def conversion(model: PreTrainedModel, arrays: Mapping[str, np.ndarray]) -> Conversion:
    checkpoint = Checkpoint("tiny", model.config, Memory(arrays), cast(Any, None), None)
    return converted(checkpoint, model, shapes_of(model))


def shapes_of(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in own(model).items()}


def assert_shows(model: PreTrainedModel, arrays: Mapping[str, np.ndarray]) -> Conversion:
    """Assert that the tensors show each of the model's, and nothing else."""
    found = conversion(model, arrays)
    expected = own(model)
    assert found.checkpoint.tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found.checkpoint.read(name), array, err_msg=name)
    return found


def test_a_mixture_stored_expert_by_expert_shows_its_stacks() -> None:
    model = random_model("mixtral")
    stored = stored_by(model)
    assert f"{EXPERT}.2.w3.weight" in stored
    assert_shows(model, stored)


def test_layers_may_have_the_numbers_of_experts() -> None:
    config = AutoConfig.for_model(
        "mixtral", **SIZES | {"num_hidden_layers": 4, "num_local_experts": 3}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    assert_shows(model, stored_by(model))


def test_a_mixture_stored_as_stacks_is_shown_as_it_is() -> None:
    model = random_model("mixtral")
    assert_shows(model, own(model))


def test_twelve_experts_are_stacked_by_number_and_not_by_spelling() -> None:
    config = AutoConfig.for_model("mixtral", **SIZES | {"num_local_experts": 12})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    assert_shows(model, dict(sorted(stored_by(model).items())))


@pytest.mark.parametrize("model_type", ["gpt2", "bloom", "falcon", "opt", "llama", "mixtral"])
def test_a_language_model_finds_the_weights_of_its_base_model(model_type: str) -> None:
    model = random_model(model_type)
    prefix = f"{model.base_model_prefix}."
    assert_shows(model, {n.removeprefix(prefix): a for n, a in stored_by(model).items()})


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_a_base_model_finds_its_weights_beside_heads_and_names_these(model_type: str) -> None:
    whole = random_model(model_type, AutoModelForMaskedLM)
    base = whole.base_model
    stored = stored_by(whole)
    prefix = f"{base.base_model_prefix}."
    found = assert_shows(base, stored)
    assert set(found.heads) == {name for name in stored if not name.startswith(prefix)}
    assert found.heads


def test_a_pooler_is_a_head_of_a_model_that_has_none() -> None:
    pooled = random_model("bert", AutoModel)
    bare = random_model("bert", AutoModelForMaskedLM).base_model
    bare.load_state_dict(pooled.state_dict(), strict=False)
    found = assert_shows(bare, {f"bert.{name}": array for name, array in stored_by(pooled).items()})
    assert found.heads == ("bert.pooler.dense.bias", "bert.pooler.dense.weight")


def test_gamma_and_beta_are_the_weight_and_bias_of_a_norm() -> None:
    model = random_model("bert", AutoModel)
    new_from_old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {}
    for name, array in stored_by(model).items():
        norm, _, leaf = name.rpartition("LayerNorm.")
        old[norm + new_from_old[f"LayerNorm.{leaf}"] if norm else name] = array
    assert "embeddings.LayerNorm.gamma" in old
    assert_shows(model, old)


@pytest.mark.parametrize(
    ("model_type", "derived"),
    [
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,)}),
        ("gpt_neox", {"gpt_neox.layers.0.attention.rotary_emb.inv_freq": (2,)}),
        ("gpt_neox", {"gpt_neox.layers.0.attention.masked_bias": ()}),
        ("gpt2", {"h.0.attn.bias": (1, 1, 32, 32), "h.0.attn.masked_bias": ()}),
        ("gpt_neo", {"transformer.h.0.attn.attention.bias": (1, 1, 32, 32)}),
    ],
)
def test_what_follows_from_the_configuration_is_left_out(
    model_type: str, derived: dict[str, tuple[int, ...]]
) -> None:
    sizes = {"num_layers": 2, "attention_types": [[["global"], 2]]}
    config = AutoConfig.for_model(model_type, **SIZES | (sizes if model_type == "gpt_neo" else {}))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    extra = {name: np.ones(shape, np.float32) for name, shape in derived.items()}
    assert_shows(model, stored_by(model) | extra)


def test_position_ids_of_an_encoder_are_left_out() -> None:
    model = random_model("bert", AutoModel)
    found = assert_shows(
        model, stored_by(model) | {"embeddings.position_ids": np.arange(32)[np.newaxis]}
    )
    assert not found.heads


@pytest.mark.parametrize(
    ("model_type", "builder", "surplus"),
    [
        ("llama", AutoModelForCausalLM, "model.layers.2.mlp.up_proj.weight"),
        ("llama", AutoModelForCausalLM, "score.weight"),
        ("mixtral", AutoModelForCausalLM, "model.layers.2.block_sparse_moe.experts.0.w1.weight"),
        ("bert", AutoModel, "bert.encoder.layer.2.output.dense.weight"),
        ("bert", AutoModel, "encoder.layer.0.adapter.weight"),
    ],
)
def test_what_the_model_has_no_place_for_keeps_the_name_it_is_stored_by(
    model_type: str, builder: Any, surplus: str
) -> None:
    model = random_model(model_type, builder)
    array = np.ones((3, 2), np.float32)
    found = conversion(model, stored_by(model) | {surplus: array})
    assert found.checkpoint.tensors.keys() == {*own(model), surplus}
    np.testing.assert_array_equal(found.checkpoint.read(surplus), array)
    assert not found.heads


def test_a_parameter_that_is_not_stored_is_not_shown() -> None:
    model = random_model("llama")
    stored = stored_by(model)
    del stored["model.norm.weight"]
    found = conversion(model, stored).checkpoint
    assert found.tensors.keys() == own(model).keys() - {"model.norm.weight"}


def test_nothing_is_read_before_it_is_asked_for_and_then_only_its_parts() -> None:
    model = random_model("mixtral")
    memory = Memory(stored_by(model))
    checkpoint = Checkpoint("tiny", model.config, memory, cast(Any, None), None)
    shapes = {name: array.shape for name, array in own(model).items()}
    found = converted(checkpoint, model, shapes).checkpoint
    assert not memory.reads
    parts = found.parts(GATE_UP)
    np.testing.assert_array_equal(next(parts), own(model)[GATE_UP][:1])
    assert memory.reads == {f"{EXPERT}.0.w1.weight": 1, f"{EXPERT}.0.w3.weight": 1}


def test_a_cut_model_says_enough_about_the_whole() -> None:
    model = random_model("mixtral")
    arrays, shapes = stored_by(model), {name: array.shape for name, array in own(model).items()}
    expected = own(model)
    del model.model.layers[1]
    checkpoint = Checkpoint("tiny", model.config, Memory(arrays), cast(Any, None), None)
    found = converted(checkpoint, model, shapes).checkpoint
    np.testing.assert_array_equal(found.read(GATE_UP), expected[GATE_UP])


def refusal(stored: Mapping[str, np.ndarray], model_type: str = "mixtral") -> str:
    with pytest.raises(CheckpointError) as error:
        conversion(random_model(model_type), stored)
    return str(error.value)


def test_a_missing_expert_is_named_as_the_checkpoint_names_it() -> None:
    stored = stored_by(random_model("mixtral"))
    del stored[f"{EXPERT}.1.w2.weight"]
    assert refusal(stored) == (
        "tiny: the model's parameters cannot be put together from the tensors. 1 missing: "
        "model.layers.1.block_sparse_moe.experts.1.w2.weight. Check that config.json belongs to "
        "these weights and that every shard is there, once."
    )


def test_the_first_and_the_last_expert_are_missed_as_well() -> None:
    stored = stored_by(random_model("mixtral"))
    for expert in (0, 2):
        del stored[f"{EXPERT}.{expert}.w1.weight"]
    assert f"2 missing: {EXPERT}.0.w1.weight, {EXPERT}.2.w1.weight." in refusal(stored)


def test_all_gates_of_a_layer_are_missed_by_name() -> None:
    stored = stored_by(random_model("mixtral"))
    left = {
        name: array
        for name, array in stored.items()
        if f"{EXPERT}." not in name or ".w3." not in name
    }
    expected = ", ".join(f"{EXPERT}.{expert}.w3.weight" for expert in range(3))
    assert f"3 missing: {expected}." in refusal(left)


def test_experts_beyond_the_configuration_are_named() -> None:
    stored = stored_by(random_model("mixtral"))
    stored[f"{EXPERT}.3.w2.weight"] = stored[f"{EXPERT}.2.w2.weight"]
    assert f"1 beyond what config.json describes: {EXPERT}.3.w2.weight." in refusal(stored)


@pytest.mark.parametrize("odd", [np.ones((16, 23), np.float32), np.ones((16, 24), np.float16)])
def test_a_part_unlike_the_others_is_named(odd: np.ndarray) -> None:
    stored = stored_by(random_model("mixtral")) | {f"{EXPERT}.1.w2.weight": odd}
    assert (
        f"1 that do not go together: {EXPERT}.1.w2.weight ({odd.dtype} {list(odd.shape)}, the "
        "others are float32 [16, 24])." in refusal(stored)
    )


def test_gates_and_ups_of_other_widths_are_named() -> None:
    stored = stored_by(random_model("mixtral"))
    stored |= {f"{EXPERT}.{e}.w3.weight": np.ones((24, 15), np.float32) for e in range(3)}
    said = refusal(stored)
    assert f"the parts of {GATE_UP} ({EXPERT}.0.w1.weight is [24, 16]" in said
    assert f"{EXPERT}.0.w3.weight is [24, 15]" in said


def test_stacks_of_another_width_are_left_to_the_binding_to_refuse() -> None:
    stored = stored_by(random_model("mixtral"))
    stored |= {f"{EXPERT}.{e}.w2.weight": np.ones((16, 20), np.float32) for e in range(3)}
    found = conversion(random_model("mixtral"), stored).checkpoint
    assert found.tensors["model.layers.1.mlp.experts.down_proj"].shape == (3, 16, 20)


@pytest.mark.parametrize(
    ("model_type", "first", "second"),
    [
        ("gpt2", "transformer.wte.weight", "wte.weight"),
        ("mixtral", GATE_UP, f"{EXPERT}.0.w1.weight"),
        ("llama", "model.norm.weight", "norm.weight"),
    ],
)
def test_two_tensors_for_one_parameter_are_both_named(
    model_type: str, first: str, second: str
) -> None:
    model = random_model(model_type)
    stored = own(model) | stored_by(model)
    stored |= {second: stored[first]} if second not in stored else {}
    said = refusal(stored, model_type)
    assert "stored twice" in said
    assert first in said
    assert second in said


def test_a_wrong_number_is_told_by_the_name_and_file_of_its_part() -> None:
    model = random_model("mixtral")
    stored = stored_by(model)
    stored[f"{EXPERT}.1.w3.weight"] = np.full((24, 16), np.nan, np.float32)
    found = conversion(model, stored).checkpoint
    part = rf"{EXPERT}\.1\.w3\.weight"
    with pytest.raises(CheckpointError, match=rf"{part}\.npy: {part} holds 384 of 384 "):
        found.read(GATE_UP)
    with pytest.raises(CheckpointError, match=rf"{part}\.npy: {part} holds 384 of 384 "):
        list(found.parts(GATE_UP))


class Signs:
    """Tensors in memory, of which the matrices of experts stand for codes with a scale a row."""

    def __init__(self, memory: Memory) -> None:
        spec = TensorSpec((1, 1), np.dtype(np.float32))
        scheme = StoredScheme("integer", 8, "per-channel", symmetric=True)
        names = [name for name in memory.arrays if ".experts." in name]
        self.stored = {name: StoredLinear(scheme, spec, {}) for name in names}
        self.dequantized: dict[str, str] = {}
        self._arrays = memory.arrays

    def matrix(self, name: str) -> StoredMatrix:
        weight = self._arrays[name]
        return StoredMatrix(np.sign(weight).astype(np.int8), np.abs(weight[:, :1]))


def test_the_codes_of_experts_are_stacked_as_their_weights_are() -> None:
    model = random_model("mixtral")
    memory = Memory(stored_by(model))
    checkpoint = Checkpoint("tiny", model.config, memory, cast(Any, None), None)
    checkpoint = replace(checkpoint, codes=CodesOfReader(Signs(memory)))
    found = converted(checkpoint, model, shapes_of(model)).checkpoint
    assert found.quantized.keys() == {
        f"model.layers.{layer}.mlp.experts.{stack}"
        for layer in (0, 1)
        for stack in ("gate_up_proj", "down_proj")
    }
    matrices = list(found.matrices(GATE_UP))
    weights = found.read(GATE_UP)
    assert len(matrices) == len(weights) == 3
    for matrix, weight in zip(matrices, weights, strict=True):
        np.testing.assert_array_equal(matrix.codes, np.sign(weight))
        np.testing.assert_array_equal(matrix.scales, np.abs(weight[:, :1]))


def test_a_bias_of_zeros_beside_codes_is_left_out_where_the_model_has_none() -> None:
    model = random_model("mixtral")
    bias = f"{EXPERT}.0.w1.bias"
    memory = Memory(stored_by(model) | {bias: np.zeros(24, np.float32)})
    plain = Checkpoint("tiny", model.config, memory, cast(Any, None), None)
    quantized = replace(plain, codes=CodesOfReader(Signs(Memory(stored_by(model)))))
    assert bias in converted(plain, model, shapes_of(model)).checkpoint.tensors
    assert bias not in converted(quantized, model, shapes_of(model)).checkpoint.tensors
