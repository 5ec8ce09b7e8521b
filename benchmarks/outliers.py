"""Plant outlier channels in a model, as big models grow them, and leave its function as it is."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

FACTOR = 64.0  # a power of two: floats are multiplied and divided by it without rounding
CHANNELS = 6  # OPT-6.7B has about so many (Dettmers et al., LLM.int8(), arXiv:2208.07339)
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def plant_outliers(
    model: PreTrainedModel, channels: int = CHANNELS, factor: float = FACTOR, seed: int = 0
) -> None:
    """Multiply the same `channels` gains of every norm before a linear by `factor`, in place.

    The weights that read them are divided by it. The layers must be named as Llama's are.
    """
    width = model.config.hidden_size
    chosen = torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:channels]
    with torch.no_grad():
        for layer in model.model.layers:
            for norm, linears in READERS.items():
                layer.get_submodule(norm).weight[chosen] *= factor
                for linear in linears:
                    layer.get_submodule(linear).weight[:, chosen] /= factor
