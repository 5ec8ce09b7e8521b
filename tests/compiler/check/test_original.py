"""The original equals what Hugging Face loads, though it is filled tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel

from castline.compiler.check.original import OriginalModel
from castline.errors import CheckpointError, UnsupportedArchitectureError

TOKENS = np.array([[3, 7, 1, 9, 4], [2, 2, 8, 5, 6]], dtype=np.int64)


@dataclass
class HeldCheckpoint:
    """A checkpoint in memory."""

    config: PretrainedConfig
    arrays: dict[str, np.ndarray]
    source: str = "held"

    @property
    def tensors(self) -> MappingProxyType[str, np.ndarray]:
        return MappingProxyType(self.arrays)

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]


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


def checkpoint_of(model: PreTrainedModel) -> HeldCheckpoint:
    return HeldCheckpoint(
        model.config, {name: value.numpy() for name, value in model.state_dict().items()}
    )


def reference_logits(model: PreTrainedModel, mask: np.ndarray | None = None) -> np.ndarray:
    mask = np.ones_like(TOKENS) if mask is None else mask
    with torch.no_grad():
        return model(
            input_ids=torch.from_numpy(TOKENS),
            attention_mask=torch.from_numpy(mask),
            position_ids=torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0)),
        ).logits.numpy()


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
    checkpoint = checkpoint_of(model)
    checkpoint.arrays.pop(absent, None)
    np.testing.assert_array_equal(
        OriginalModel.load(checkpoint).logits(TOKENS), reference_logits(model)
    )


def test_tensors_that_differ_are_not_tied_though_the_configuration_says_so(tmp_path: Path) -> None:
    model = tiny_llama(tied=True)
    arrays = checkpoint_of(model).arrays
    arrays["lm_head.weight"] = arrays["lm_head.weight"][::-1].copy()
    model.config.save_pretrained(tmp_path)
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = reference_logits(loaded)
    assert np.abs(expected - reference_logits(model)).max() > 1, "the head matters"
    logits = OriginalModel.load(HeldCheckpoint(model.config, arrays)).logits(TOKENS)
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("shape", [(31, 16), (32, 8)])
def test_a_misshapen_tied_tensor_is_named(shape: tuple[int, int]) -> None:
    checkpoint = checkpoint_of(tiny_llama(tied=True))
    checkpoint.arrays["lm_head.weight"] = np.zeros(shape, dtype=np.float32)
    with pytest.raises(
        CheckpointError, match=r"lm_head\.weight is \[3\d, \d+\], expected \[32, 16\]"
    ):
        OriginalModel.load(checkpoint)


def test_bfloat16_weights_are_widened_exactly() -> None:
    checkpoint = checkpoint_of(tiny_llama())
    checkpoint.arrays = {n: a.astype(ml_dtypes.bfloat16) for n, a in checkpoint.arrays.items()}
    original = OriginalModel.load(checkpoint)
    for name, array in checkpoint.arrays.items():
        held = original.model.get_parameter(name).numpy()
        np.testing.assert_array_equal(held, array.astype(np.float32))


def test_half_precision_runs_in_it_and_gives_float32_logits() -> None:
    model = tiny_llama()
    original = OriginalModel.load(checkpoint_of(model), dtype=torch.bfloat16)
    assert original.model.dtype == torch.bfloat16
    assert original.logits(TOKENS).dtype == np.float32


def test_read_only_weights_are_copied() -> None:
    checkpoint = checkpoint_of(tiny_llama())
    for array in checkpoint.arrays.values():
        array.flags.writeable = False
    original = OriginalModel.load(checkpoint)
    name = "model.layers.0.mlp.up_proj.weight"
    held = original.model.get_parameter(name)
    assert held.data_ptr() != checkpoint.arrays[name].ctypes.data


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
    checkpoint = checkpoint_of(tiny_llama())
    del checkpoint.arrays["model.norm.weight"]
    del checkpoint.arrays["lm_head.weight"]
    checkpoint.arrays["model.embed_tokens.weight"] = np.zeros((31, 16), dtype=np.float32)
    with pytest.raises(CheckpointError) as error:
        OriginalModel.load(checkpoint)
    assert str(error.value) == (
        "held does not hold the weights of its configuration (llama): lm_head.weight is missing; "
        "model.norm.weight is missing; model.embed_tokens.weight is [31, 16], expected [32, 16]."
    )


def test_a_configuration_of_no_language_model_is_refused() -> None:
    from transformers import CLIPVisionConfig

    checkpoint = HeldCheckpoint(CLIPVisionConfig(), {})
    with pytest.raises(UnsupportedArchitectureError, match="clip_vision_model as a language model"):
        OriginalModel.load(checkpoint)
