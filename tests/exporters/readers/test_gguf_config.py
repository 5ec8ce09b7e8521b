from __future__ import annotations

import numpy as np
import pytest

from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.readers.gguf_config import FAMILIES, parameter_name
from castline.exporters.readers.gguf_file import GgufReader


def test_states_the_sizes_of_the_model(write_gguf):
    config = GgufReader(write_gguf()).config()
    assert config.model_type == "llama"
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.num_hidden_layers == 1
    assert config.hidden_size == 64
    assert config.intermediate_size == 128
    assert config.num_attention_heads == 4
    assert config.num_key_value_heads == 2
    assert config.head_dim == 16
    assert config.rms_norm_eps == 1e-5
    assert config.max_position_embeddings == 128
    assert config.vocab_size == 96
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 5000.0}
    assert not config.attention_bias
    assert getattr(config, "quantization_config", None) is None


def test_ties_the_head_to_the_embedding_exactly_without_output_weight(write_gguf):
    head = np.zeros((96, 64), np.float32)
    assert GgufReader(write_gguf()).config().tie_word_embeddings
    untied = GgufReader(write_gguf(extra={"output.weight": head}, name="untied.gguf"))
    assert not untied.config().tie_word_embeddings
    assert "lm_head.weight" in untied.tensors


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_takes_the_model_type_from_the_architecture(architecture, write_gguf):
    metadata = {f"{architecture}.attention.key_length": 32}
    config = GgufReader(write_gguf(architecture, metadata=metadata)).config()
    assert config.model_type == architecture
    assert config.head_dim == 32


def test_takes_a_llama_with_a_window_for_mistral(write_gguf):
    config = GgufReader(write_gguf(metadata={"llama.attention.sliding_window": 64})).config()
    assert config.model_type == "mistral"
    assert config.sliding_window == 64


def test_takes_the_special_tokens_from_the_tokenizer(write_gguf):
    ids = {"bos": 1, "eos": 2, "padding": 3}
    metadata = {f"tokenizer.ggml.{name}_token_id": value for name, value in ids.items()}
    config = GgufReader(write_gguf(metadata=metadata)).config()
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 3)


def test_ends_at_the_end_of_a_turn_too(write_gguf):
    metadata = {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 5}
    assert GgufReader(write_gguf(metadata=metadata)).config().eos_token_id == [2, 5]


def test_refuses_an_architecture_it_does_not_know(write_gguf):
    with pytest.raises(
        UnsupportedArchitectureError, match="GGUF architecture falcon; llama, qwen2"
    ):
        GgufReader(write_gguf("falcon"))


def test_names_all_missing_sizes_in_one_error(write_gguf):
    metadata = {"llama.block_count": None, "llama.context_length": None}
    with pytest.raises(CheckpointError, match=r"llama\.block_count, llama\.context_length"):
        GgufReader(write_gguf(metadata=metadata))


def test_refuses_sizes_that_differ_by_layer(write_gguf):
    with pytest.raises(
        CheckpointError, match=r"one positive number for llama\.attention\.head_count"
    ):
        GgufReader(write_gguf(metadata={"llama.attention.head_count": [4, 4]}))


def test_refuses_sizes_that_make_no_model(write_gguf):
    metadata = {"llama.embedding_length": 90, "llama.attention.key_length": 16}
    with pytest.raises(CheckpointError, match="no sound llama model"):
        GgufReader(write_gguf(metadata=metadata)).config()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("output.weight", "lm_head.weight"),
        ("blk.12.attn_k_norm.weight", "model.layers.12.self_attn.k_norm.weight"),
        ("blk.3.attn_v.bias", "model.layers.3.self_attn.v_proj.bias"),
        ("blk.3.ffn_gate_exps.weight", None),
        ("v.blk.0.attn_q.weight", None),
        ("token_types.weight", None),
    ],
)
def test_names_parameters_as_hugging_face_does(stored, expected):
    assert parameter_name(stored, FAMILIES["llama"]) == expected


@pytest.mark.slow
def test_describes_a_real_file_as_transformers_does(smollm2_gguf):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name
    ).to_dict()
    ours = GgufReader(smollm2_gguf).config().to_dict()
    ours.pop("_name_or_path")
    assert ours.pop("rms_norm_eps") == pytest.approx(theirs.pop("rms_norm_eps"), rel=1e-7)
    assert ours.pop("architectures") == ["LlamaForCausalLM"]
    different = {k: (ours[k], theirs.get(k)) for k in ours if ours[k] != theirs.get(k)}
    # Theirs knows only what the model's part of the metadata states.
    assert set(different) <= {"bos_token_id", "eos_token_id", "pad_token_id"}, different
