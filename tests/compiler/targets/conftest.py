"""Export a tiny decoder of each architecture with a mixture of experts, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from castline.compiler.targets.write import write_model
from castline.exporters.checkpoint import open_checkpoint
from castline.exporters.export import export

SIZES = {
    "vocab_size": 160,  # that of the scenarios
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
MIXTURES: dict[str, PretrainedConfig] = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "qwen2_moe": Qwen2MoeConfig(
        **SIZES,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=64,
    ),
    "qwen3_moe": Qwen3MoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=48, norm_topk_prob=True
    ),
}


@pytest.fixture(scope="session")
def mixture_decoder(
    tmp_path_factory: pytest.TempPathFactory,
    traced_once: None,  # noqa: ARG001
) -> Callable[..., ir.Model]:
    """Return the float graph of a decoder in MIXTURES, anew, with its weights in a file."""
    made: dict[tuple[str, ir.DataType], Path] = {}

    def of(name: str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
        if (name, dtype) not in made:
            folder = tmp_path_factory.mktemp(name)
            save_random(MIXTURES[name], folder / "checkpoint")
            exported = export(open_checkpoint(folder / "checkpoint"), dtype)
            made[name, dtype] = write_model(exported.model, folder)
        return ir.load(made[name, dtype])

    return of


def save_random(config: PretrainedConfig, folder: Path) -> None:
    """Write a checkpoint whose every weight matters."""
    model = AutoModelForCausalLM.from_config(config)
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.data = noise * (1.0 if "embed" in name else scale) + ("norm" in name)
    model.save_pretrained(folder)
