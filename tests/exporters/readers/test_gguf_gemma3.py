from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler.check.original import OriginalModel
from castline.errors import CheckpointError
from castline.exporters.checkpoint import open_checkpoint
from castline.exporters.readers.gguf_file import GgufReader

STATED = {"gemma3.attention.key_length": 16, "gemma3.attention.sliding_window": 8}
SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.fixture
def write_gemma(write_gguf: Callable[..., Path]) -> Callable[..., Path]:
    def write(**metadata: Any) -> Path:
        generator = np.random.default_rng(1)
        norms = {"attn_q_norm": 16, "attn_k_norm": 16}
        norms |= {"post_attention_norm": 64, "post_ffw_norm": 64}
        extra = {
            f"blk.0.{name}.weight": generator.standard_normal(size, np.float32)
            for name, size in norms.items()
        }
        entries = {f"gemma3.{key.replace('__', '.')}": value for key, value in metadata.items()}
        return write_gguf("gemma3", extra=extra, metadata=STATED | entries)

    return write


def test_a_file_becomes_a_model_that_runs(write_gemma: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(write_gemma())
    assert checkpoint.config.architectures == ["Gemma3ForCausalLM"]
    logits = OriginalModel.load(checkpoint).logits(np.arange(12, dtype=np.int64)[np.newaxis])
    assert logits.shape == (1, 12, 96)
    assert np.isfinite(logits).all()


def test_norms_lose_the_one_that_llama_cpp_added(
    write_gemma: Callable[..., Path], truth: dict[str, np.ndarray]
) -> None:
    reader = GgufReader(write_gemma())
    for stored, name in {
        "output_norm": "model.norm",
        "blk.0.attn_norm": "model.layers.0.input_layernorm",
        "blk.0.ffn_norm": "model.layers.0.pre_feedforward_layernorm",
    }.items():
        np.testing.assert_array_equal(
            reader.read(f"{name}.weight"), truth[f"{stored}.weight"] - np.float32(1)
        )
    np.testing.assert_array_equal(
        reader.read("model.embed_tokens.weight"), truth["token_embd.weight"]
    )
    assert {name for name in reader.tensors if "norm" in name} >= {
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.post_feedforward_layernorm.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.k_norm.weight",
    }


def test_every_sixth_layer_sees_the_whole_text(write_gemma: Callable[..., Path]) -> None:
    config = GgufReader(write_gemma(block_count=13)).config()
    assert config.sliding_window == 8
    assert config.layer_types == [*([SLIDING] * 5 + [FULL]) * 2, SLIDING]


def test_a_file_may_state_another_pattern(write_gemma: Callable[..., Path]) -> None:
    config = GgufReader(write_gemma(block_count=4, attention__sliding_window_pattern=2)).config()
    assert config.layer_types == [SLIDING, FULL] * 2


def test_layers_with_a_window_have_a_rotary_base_of_their_own(
    write_gemma: Callable[..., Path],
) -> None:
    config = GgufReader(write_gemma()).config()
    assert config.rope_parameters == {
        FULL: {"rope_type": "default", "rope_theta": 5000.0},
        SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
    }


def test_a_scaling_holds_for_layers_with_full_attention_alone(
    write_gemma: Callable[..., Path],
) -> None:
    scaled = {"rope__scaling__type": "linear", "rope__scaling__factor": 8.0}
    config = GgufReader(write_gemma(rope__freq_base_swa=500.0, **scaled)).config()
    assert config.rope_parameters == {
        FULL: {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
        SLIDING: {"rope_type": "default", "rope_theta": 500.0},
    }


@pytest.mark.parametrize(("layers", "scalar"), [(18, 32), (62, 16)])
def test_scores_are_scaled_by_the_head_but_in_the_largest_model(
    layers: int, scalar: int, write_gemma: Callable[..., Path]
) -> None:
    path = write_gemma(block_count=layers, attention__key_length=32)
    assert GgufReader(path).config().query_pre_attn_scalar == scalar


def test_a_cap_of_the_logits_is_kept(write_gemma: Callable[..., Path]) -> None:
    assert GgufReader(write_gemma()).config().final_logit_softcapping is None
    capped = GgufReader(write_gemma(final_logit_softcapping=30.0)).config()
    assert capped.final_logit_softcapping == 30.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.sliding_window", None),
        ("attention.sliding_window", 0),
        ("attention.sliding_window_pattern", [1, 0]),
        ("rope.freq_base_swa", 0.0),
    ],
)
def test_refuses_what_is_no_number_by_name(
    key: str, value: Any, write_gemma: Callable[..., Path]
) -> None:
    path = write_gemma(**{key.replace(".", "__"): value})
    with pytest.raises(CheckpointError, match=rf"one positive number for gemma3\.{key}\. "):
        GgufReader(path).config()
