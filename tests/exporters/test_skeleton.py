from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, Lfm2Config, LlamaConfig, Qwen2Config

from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.skeleton import skeleton

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 131,
}


def test_keeps_two_layers_of_each_kind() -> None:
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
    cut = skeleton(Qwen2Config(**SIZES, num_hidden_layers=8, **windows))
    assert cut.kinds == (0, 0, 0, 1, 1, 1, 1, 1)
    assert cut.kept == (0, 1, 3, 4)
    assert cut.model.config.num_hidden_layers == len(cut.model.model.layers) == 4
    assert cut.model.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 2
    assert [layer.self_attn.layer_idx for layer in cut.model.model.layers] == [0, 1, 2, 3]
    assert cut.stack == "model.layers"


def test_tells_layers_apart_that_only_their_modules_distinguish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.models.llama import modeling_llama

    class Uneven(modeling_llama.LlamaDecoderLayer):
        def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
            super().__init__(config, layer_idx)
            self.self_attn.scaling *= 1 + layer_idx % 2

    monkeypatch.setattr(modeling_llama, "LlamaDecoderLayer", Uneven)
    assert skeleton(LlamaConfig(**SIZES, num_hidden_layers=4)).kinds == (0, 1, 0, 1)


def test_knows_the_whole_model(sample: Callable[[str], Any]) -> None:
    whole = sample("llama")
    assert whole.skeleton.shapes == {n: tuple(p.shape) for n, p in whole.model.named_parameters()}
    assert whole.skeleton.parameters == whole.model.num_parameters()
    assert whole.skeleton.aliases == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "moonshine"}, "KeyError: 'moonshine'"),
        ({"intermediate_size": -3}, "RuntimeError: .*negative dimension"),
    ],
)
def test_says_that_a_configuration_makes_no_model(change: dict[str, Any], words: str) -> None:
    config = LlamaConfig(**SIZES | change, num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=rf"(?s)config\.json: .* a llama model .*{words}"):
        skeleton(config)


def test_counts_tied_weights_once(sample: Callable[[str], Any]) -> None:
    tied = sample("qwen2")
    assert tied.skeleton.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in tied.skeleton.shapes
    assert tied.skeleton.parameters == tied.model.num_parameters()


def test_a_deep_and_wide_model_takes_no_memory_for_its_weights() -> None:
    """Twenty thousand million parameters: they would fill 80 GB."""
    config = LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=20, vocab_size=128256
    )
    cut = skeleton(config)
    assert cut.parameters > 2e10
    assert len(cut.model.model.layers) == 2


def test_is_float32_whatever_the_configuration_names(sample: Callable[[str], Any]) -> None:
    cut = sample("one layer, no groups, yarn, bfloat16").skeleton
    floats = {t.dtype for t in (*cut.model.parameters(), *cut.model.buffers())}
    assert floats == {torch.float32}


def test_leaves_the_configuration_and_torch_as_they_were() -> None:
    register = torch.nn.Module.register_parameter
    config = LlamaConfig(**SIZES, num_hidden_layers=5)
    before = config.to_dict()
    skeleton(config)
    assert config.to_dict() == before
    assert torch.nn.Module.register_parameter is register


def test_an_encoder_loses_what_stands_on_top_of_its_hidden_states(
    sample: Callable[[str], Any],
) -> None:
    bert = sample("bert")
    assert bert.model.pooler is not None
    assert bert.skeleton.model.pooler is None
    assert bert.skeleton.interface.output == "last_hidden_state"
    assert bert.skeleton.shapes.keys() == {
        name for name, _ in bert.model.named_parameters() if not name.startswith("pooler.")
    }


def test_buffers_that_a_checkpoint_stores_are_weights(sample: Callable[[str], Any]) -> None:
    gemma = sample("gemma3_text")
    derived = {name for name, _ in gemma.model.named_buffers()}
    assert derived
    assert derived.isdisjoint(gemma.skeleton.shapes)
    config = AutoConfig.for_model(
        "deepseek_v3", **SIZES, num_hidden_layers=2, first_k_dense_replace=1, n_routed_experts=8
    )
    stored = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert skeleton(config).shapes[stored] == (8,)


def test_a_tied_weight_has_a_shape_under_each_name(sample: Callable[[str], Any]) -> None:
    shapes = sample("qwen2").skeleton.named_shapes
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"] == (131, 64)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_refuses_positions_that_depend_on_the_length(kind: str) -> None:
    factors = [1.0] * 8
    longrope = {"short_factor": factors, "long_factor": factors} if kind == "longrope" else {}
    rope = {
        "rope_type": kind,
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = LlamaConfig(**SIZES, num_hidden_layers=1, rope_parameters=rope | longrope)
    with pytest.raises(UnsupportedArchitectureError, match=f"rope_type is '{kind}'.*llama3"):
        skeleton(config)


def test_refuses_a_model_without_a_single_stack_of_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.models.llama import modeling_llama

    class TwoStacks(modeling_llama.LlamaModel):
        def __init__(self, config: LlamaConfig) -> None:
            super().__init__(config)
            self.more = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])

    monkeypatch.setattr(modeling_llama, "LlamaModel", TwoStacks)
    with pytest.raises(UnsupportedArchitectureError, match=r"one list of 2 layers .* found 2"):
        skeleton(LlamaConfig(**SIZES, num_hidden_layers=2))


def test_refuses_layers_whose_state_is_no_cache() -> None:
    config = Lfm2Config(**SIZES, num_hidden_layers=2, layer_types=["conv", "full_attention"])
    with pytest.raises(UnsupportedArchitectureError, match=r"layer_types has 'conv'\. Only layers"):
        skeleton(config)
