"""Give a model to trace experts that export: all see every token, and most weigh nothing."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

_DENSE = "castline_dense"


def use_dense_experts(model: PreTrainedModel) -> None:
    """Set the experts of every part of `model`, in place.

    A model without a mixture of experts is left as it computes. Experts that do not look their
    implementation up (a class of an architecture's own) keep the forward they have.
    """
    ALL_EXPERTS_FUNCTIONS.register(_DENSE, dense_experts)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._experts_implementation = _DENSE


def dense_experts(
    module: torch.nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """Return the sum of all experts' answers, weighted: zero for those that the router left out.

    `hidden_states` is [T, H]; `top_k_index` and `top_k_weights` are [T, k], distinct in each row.
    Shapes depend on T alone, where gathering tokens by expert makes them depend on the values. The
    weights are read once, as [E, K, N]: whoever knows what runs the graph can choose better.
    """
    hidden = hidden_states.unsqueeze(0)
    if module.has_gate:
        inner = module._apply_gate(_expert_linear(module, "gate_up_proj", hidden))
    else:
        inner = module.act_fn(_expert_linear(module, "up_proj", hidden))
    answers = _expert_linear(module, "down_proj", inner)
    if module.has_post_expert_norm:
        answers = module.post_expert_norm(answers)
    weighted = answers * _routing_weights(module, top_k_index, top_k_weights)
    return weighted.sum(dim=0).to(hidden_states.dtype)


def _expert_linear(module: torch.nn.Module, name: str, inputs: torch.Tensor) -> torch.Tensor:
    """Return [E, T, N]: `inputs` [1 or E, T, K] through the linear `name` of each expert."""
    weight = getattr(module, name)
    outputs = torch.matmul(inputs, weight if module.is_transposed else weight.transpose(1, 2))
    return outputs + getattr(module, f"{name}_bias").unsqueeze(1) if module.has_bias else outputs


def _routing_weights(
    module: torch.nn.Module, index: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return [E, T, 1]: what each expert's answer weighs for each token."""
    nothing = torch.zeros(index.shape[0], module.num_experts, dtype=weights.dtype)
    return nothing.scatter(1, index, weights).transpose(0, 1).unsqueeze(-1)
