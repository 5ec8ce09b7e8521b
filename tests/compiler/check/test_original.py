"""The original equals what Hugging Face loads, though it is filled tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    PreTrainedModel,
)

from castline.compiler.check.original import OriginalModel, load_encoder
from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.checkpoint import Checkpoint, TensorSpec, open_checkpoint
from castline.exporters.torch_model import named_tensors

TOKENS = np.array([[3, 7, 1, 9, 4], [2, 2, 8, 5, 6]], dtype=np.int64)


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NARROW = {"head_dim": 8}
EXPERTS = {
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen2": {},
    "qwen2_moe": EXPERTS | {"mlp_only_layers": [0]},
    "qwen3": NARROW,
    "qwen3_moe": EXPERTS | NARROW,
    "gemma": NARROW,
    "gemma2": NARROW,
    "gemma3_text": NARROW,
    "phi": {},
    "phi3": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "bloom": {"n_layer": 2, "n_head": 4},
    "glm": NARROW,
    "glm4": NARROW,
    "gpt2": {},
    "gpt_neox": {},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon, multi-query": {"multi_query": True, "alibi": False},
    "cohere": {},
    "olmo2": {},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
}
OLD_NAMES = {
    "mixtral": "model.layers.1.block_sparse_moe.experts.2.w3.weight",
    "qwen2_moe": "model.layers.1.mlp.experts.2.up_proj.weight",
    "qwen3_moe": "model.layers.0.mlp.experts.1.gate_proj.weight",
}


class Held:
    """Tensors in memory."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)
        self.files: tuple[Path, ...] = ()

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        return {name: TensorSpec(a.shape, a.dtype) for name, a in self.arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def file_of(self, name: str) -> Path:
        return Path(f"{name}.npy")


def random_model(name: str) -> PreTrainedModel:
    encodes = name in ENCODERS
    builder = AutoModelForMaskedLM if encodes else AutoModelForCausalLM
    options = ENCODERS[name] if encodes else DECODERS[name]
    model_type = name.partition(",")[0]
    config = AutoConfig.for_model(model_type, **SIZES | options)
    torch.manual_seed(0)
    model = builder.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="session")
def saved(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[PreTrainedModel, Path]]:
    """Return a random model and the folder that transformers wrote it to."""
    made: dict[str, tuple[PreTrainedModel, Path]] = {}

    def of(name: str) -> tuple[PreTrainedModel, Path]:
        if name not in made:
            model, folder = random_model(name), tmp_path_factory.mktemp("saved")
            model.save_pretrained(folder)
            made[name] = (model, folder)
        return made[name]

    return of


def tiny_llama(*, tied: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.data *= 8  # the default is so small that all logits are near zero
    return model


def state_of(model: PreTrainedModel) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def checkpoint_of(
    model: PreTrainedModel, arrays: Mapping[str, np.ndarray] | None = None
) -> Checkpoint:
    reader = Held(state_of(model) if arrays is None else arrays)
    return Checkpoint("held", model.config, reader, cast(Any, None), None)


def reference_logits(model: PreTrainedModel, mask: np.ndarray | None = None) -> np.ndarray:
    mask = np.ones_like(TOKENS) if mask is None else mask
    with torch.no_grad():
        return model(
            input_ids=torch.from_numpy(TOKENS),
            attention_mask=torch.from_numpy(mask),
            position_ids=torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0)),
        ).logits.numpy()


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_every_decoder_is_filled_with_its_own_weights(name: str, saved: Callable[..., Any]) -> None:
    model, folder = saved(name)
    checkpoint = open_checkpoint(folder)
    assert name not in OLD_NAMES or OLD_NAMES[name] in checkpoint.tensors
    original = OriginalModel.load(checkpoint)
    assert_same_tensors(original.model, model)
    np.testing.assert_array_equal(original.logits(TOKENS), reference_logits(model))


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_every_encoder_is_filled_without_its_head(name: str, saved: Callable[..., Any]) -> None:
    model, folder = saved(name)
    original = load_encoder(open_checkpoint(folder))
    assert_same_tensors(original, model.base_model)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=np.int64)
    feed = {"input_ids": torch.from_numpy(TOKENS), "attention_mask": torch.from_numpy(mask)}
    with torch.no_grad():
        expected = model.base_model(**feed).last_hidden_state.numpy()
        found = original(**feed).last_hidden_state.numpy()
    np.testing.assert_array_equal(found, expected)
    assert not any(parameter.requires_grad for parameter in original.parameters())


def assert_same_tensors(found: PreTrainedModel, expected: PreTrainedModel) -> None:
    by_name = dict(named_tensors(expected))
    for name, tensor in named_tensors(found):
        np.testing.assert_array_equal(
            tensor.detach().numpy(), by_name.pop(name).detach().numpy(), err_msg=name
        )
    assert not by_name


def test_a_stack_of_experts_is_filled_in_half_precision(saved: Callable[..., Any]) -> None:
    model, folder = saved("mixtral")
    original = OriginalModel.load(open_checkpoint(folder), dtype=torch.bfloat16)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    found, expected = original.model.get_parameter(name), model.get_parameter(name)
    assert torch.equal(found, expected.to(torch.bfloat16))


def test_an_encoder_is_filled_whether_or_not_there_is_a_pooler(saved: Callable[..., Any]) -> None:
    model, folder = saved("bert")
    checkpoint = open_checkpoint(folder)
    assert not any("pooler" in name for name in checkpoint.tensors)
    arrays = {name: checkpoint.read(name) for name in checkpoint.tensors}
    arrays["bert.pooler.dense.weight"] = np.ones((32, 32), np.float32)
    original = load_encoder(replace(checkpoint, reader=Held(arrays)))
    assert_same_tensors(original, model.base_model)


def test_logits_equal_those_of_the_model_itself() -> None:
    model = tiny_llama()
    original = OriginalModel.load(checkpoint_of(model))
    logits = original.logits(TOKENS)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, reference_logits(model))


def test_left_padding_is_masked_and_moves_positions() -> None:
    model = tiny_llama()
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=np.int64)
    original = OriginalModel.load(checkpoint_of(model))
    logits = original.logits(TOKENS, mask)
    np.testing.assert_array_equal(logits[mask == 1], reference_logits(model, mask)[mask == 1])
    alone = original.logits(TOKENS[:1, 2:])
    np.testing.assert_allclose(logits[:1, 2:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("absent", ["lm_head.weight", "model.embed_tokens.weight", None])
def test_a_tied_embedding_is_found_under_either_name(absent: str | None) -> None:
    model = tiny_llama(tied=True)
    arrays = state_of(model)
    arrays.pop(absent or "", None)
    logits = OriginalModel.load(checkpoint_of(model, arrays)).logits(TOKENS)
    np.testing.assert_array_equal(logits, reference_logits(model))


def test_tensors_that_differ_are_not_tied_though_the_configuration_says_so(tmp_path: Path) -> None:
    model = tiny_llama(tied=True)
    arrays = state_of(model)
    arrays["lm_head.weight"] = arrays["lm_head.weight"][::-1].copy()
    model.config.save_pretrained(tmp_path)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = reference_logits(loaded)
    assert np.abs(expected - reference_logits(model)).max() > 1, "the head matters"
    logits = OriginalModel.load(checkpoint_of(model, arrays)).logits(TOKENS)
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("shape", [(31, 16), (32, 8)])
def test_a_misshapen_tied_tensor_is_named(shape: tuple[int, int]) -> None:
    model = tiny_llama(tied=True)
    arrays = state_of(model)
    arrays["lm_head.weight"] = np.zeros(shape, dtype=np.float32)
    with pytest.raises(
        CheckpointError, match=r"lm_head\.weight is \[3\d, \d+\], expected \[32, 16\]"
    ):
        OriginalModel.load(checkpoint_of(model, arrays))


def test_bfloat16_weights_are_widened_exactly() -> None:
    model = tiny_llama()
    arrays = {n: a.astype(ml_dtypes.bfloat16) for n, a in state_of(model).items()}
    original = OriginalModel.load(checkpoint_of(model, arrays))
    for name, array in arrays.items():
        held = original.model.get_parameter(name).numpy()
        np.testing.assert_array_equal(held, array.astype(np.float32))


def test_half_precision_runs_in_it_and_gives_float32_logits() -> None:
    model = tiny_llama()
    original = OriginalModel.load(checkpoint_of(model), dtype=torch.bfloat16)
    assert original.model.dtype == torch.bfloat16
    assert original.logits(TOKENS).dtype == np.float32


def test_read_only_weights_are_copied() -> None:
    model = tiny_llama()
    arrays = {name: array.copy() for name, array in state_of(model).items()}
    for array in arrays.values():
        array.flags.writeable = False
    original = OriginalModel.load(checkpoint_of(model, arrays))
    name = "model.layers.0.mlp.up_proj.weight"
    held = original.model.get_parameter(name)
    assert held.data_ptr() != arrays[name].ctypes.data


def test_the_configuration_handed_in_stays_as_it_was() -> None:
    checkpoint = checkpoint_of(tiny_llama())
    before = checkpoint.config.to_dict()
    OriginalModel.load(checkpoint, dtype=torch.bfloat16)
    assert checkpoint.config.to_dict() == before


def test_nothing_asks_for_gradients() -> None:
    original = OriginalModel.load(checkpoint_of(tiny_llama()))
    assert not any(parameter.requires_grad for parameter in original.model.parameters())
    assert not original.model.training


def test_decoding_with_a_cache_takes_the_likeliest_tokens() -> None:
    original = OriginalModel.load(checkpoint_of(tiny_llama()))
    prompt = TOKENS[:1]
    tokens = prompt
    for _ in range(4):
        following = original.logits(tokens)[:, -1:].argmax(-1)
        tokens = np.concatenate([tokens, following], axis=1)
    assert list(original.decode(prompt, max_new_tokens=4)) == tokens[0, 5:].tolist()


def test_every_missing_and_misshapen_tensor_is_named_at_once() -> None:
    model = tiny_llama()
    arrays = state_of(model)
    del arrays["model.norm.weight"]
    del arrays["lm_head.weight"]
    arrays["model.embed_tokens.weight"] = np.zeros((31, 16), dtype=np.float32)
    with pytest.raises(CheckpointError) as error:
        OriginalModel.load(checkpoint_of(model, arrays))
    assert str(error.value) == (
        "held does not hold the weights of its configuration (llama): lm_head.weight is missing; "
        "model.norm.weight is missing; model.embed_tokens.weight is [31, 16], expected [32, 16]."
    )


def test_a_configuration_of_no_language_model_is_refused() -> None:
    from transformers import CLIPVisionConfig

    checkpoint = replace(checkpoint_of(tiny_llama(), {}), config=CLIPVisionConfig())
    with pytest.raises(UnsupportedArchitectureError, match="clip_vision_model as a language model"):
        OriginalModel.load(checkpoint)
