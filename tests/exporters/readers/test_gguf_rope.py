from __future__ import annotations

import numpy as np
import pytest
import torch

from castline.errors import CheckpointError
from castline.exporters.readers.gguf_file import GgufReader
from castline.exporters.readers.gguf_rope import llama3_factors


def test_recovers_the_scaling_of_llama_3_from_its_factors(write_gguf):
    factors = llama3_factors(5000.0, 16, factor=32.0).astype(np.float32)
    config = GgufReader(write_gguf(extra={"rope_freqs.weight": factors})).config()
    assert config.rope_parameters == {
        "rope_type": "llama3",
        "rope_theta": 5000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_divides_frequencies_as_transformers_does():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=128, num_attention_heads=1, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 500000.0 ** (np.arange(0, 128, 2) / 128)
    np.testing.assert_allclose(
        plain / llama3_factors(500000.0, 128, factor=8.0), scaled.numpy(), rtol=1e-5
    )


def test_refuses_factors_that_follow_no_rule(write_gguf):
    factors = np.linspace(1.0, 9.0, 8, dtype=np.float32)
    reader = GgufReader(write_gguf(extra={"rope_freqs.weight": factors}))
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight does not follow"):
        reader.config()


def test_reads_linear_and_yarn_scaling(write_gguf):
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    config = GgufReader(write_gguf(metadata=linear)).config()
    assert config.rope_parameters == {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
    yarn = {
        "qwen2.rope.scaling.type": "yarn",
        "qwen2.rope.scaling.factor": 4.0,
        "qwen2.rope.scaling.original_context_length": 32,
    }
    rope = GgufReader(write_gguf("qwen2", metadata=yarn)).config().rope_parameters
    assert (rope["rope_type"], rope["factor"]) == ("yarn", 4.0)
    assert rope["original_max_position_embeddings"] == 32


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.scaling.type": "longrope"}, "by longrope"),
        ({"llama.rope.scaling.type": "linear"}, r"number for llama\.rope\.scaling\.factor"),
        ({"llama.rope.dimension_count": 8}, "turns 8 of 16 dimensions"),
    ],
)
def test_refuses_rotations_without_a_counterpart(metadata, message, write_gguf):
    reader = GgufReader(write_gguf(metadata=metadata))
    with pytest.raises(CheckpointError, match=message):
        reader.config()
