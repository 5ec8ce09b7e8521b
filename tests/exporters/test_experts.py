"""The dense experts compute what each architecture's own experts compute."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from castline.exporters.experts import dense_experts, use_dense_experts

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
CONFIGS = [
    MixtralConfig(**SIZES, num_local_experts=4),
    Qwen2MoeConfig(**SIZES, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24),
    Qwen3MoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True
    ),
    DeepseekV3Config(
        **SIZES,
        n_routed_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=16,
        qk_nope_head_dim=16,
        v_head_dim=16,
    ),
    GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, head_dim=16),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_the_logits_are_those_of_the_architectures_own_experts(config: PretrainedConfig) -> None:
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=random)
        parameter.data = 0.2 * noise + (parameter.ndim == 1)
    model.set_experts_implementation("eager")
    ids = torch.randint(64, (2, 9), generator=random)
    with torch.no_grad():
        wanted = model(ids).logits
        use_dense_experts(model)
        found = model(ids).logits
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    "index",
    [torch.tensor([[2, 0]]), torch.tensor([[1, 3]] * 5), torch.tensor([[0, 1], [1, 0], [2, 1]])],
    ids=["one token", "all choose the same", "nobody chooses the last"],
)
def test_every_choice_of_experts_is_right(index: torch.Tensor) -> None:
    experts = MixtralExperts(MixtralConfig(**SIZES, num_local_experts=4))
    experts.config._experts_implementation = "eager"
    random = torch.Generator().manual_seed(0)
    for parameter in experts.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=random)
    hidden = torch.randn(len(index), 32, generator=random)
    weights = torch.rand(index.shape, generator=random)
    with torch.no_grad():
        wanted = experts(hidden, index, weights)
        found = dense_experts(experts, hidden, index, weights)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_model_without_experts_computes_as_before() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).eval()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        wanted = model(ids).logits
        use_dense_experts(model)
        assert torch.equal(model(ids).logits, wanted)
