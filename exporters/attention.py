"""Give a model to trace an attention that exports: grouped heads, soft-capping, finite masks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

_GROUPED = "castline_grouped"
_SDPA = "sdpa"
_IN_STEPS = "castline_in_steps"
# What is added to the score of a token that may not be seen. Hugging Face adds float32's smallest
# number, which is -inf in float16; a row of padding alone would then have NaN as its probabilities.
_MASKED = -3e4


def use_exportable_attention(model: PreTrainedModel) -> None:
    """Set the attention of every part of `model`, in place.

    Architectures that look their attention up get one that leaves grouped heads to ONNX Attention;
    of those with an attention of their own, some call torch's (Falcon), and the others (BLOOM,
    GPT-J) compute it step by step, with a mask that stays finite in half precision.
    """
    AttentionInterface.register(_GROUPED, grouped_attention)
    AttentionMaskInterface.register(_GROUPED, sdpa_mask)
    AttentionMaskInterface.register(_IN_STEPS, finite_mask)
    chosen = _GROUPED if _looks_attention_up(model) else own_attention(model, _IN_STEPS)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = chosen


def _looks_attention_up(model: PreTrainedModel) -> bool:
    # Some that do (StableLM) leave the class attribute that says so at its default.
    code = sys.modules[type(model).__module__]
    return model._supports_attention_backend or hasattr(code, "ALL_ATTENTION_FUNCTIONS")


def own_attention(model: PreTrainedModel, otherwise: str = "eager") -> str:
    """Return the attention that Hugging Face gives a model by default: torch's where it can."""
    return _SDPA if model._supports_sdpa else otherwise


@contextmanager
def broadcasting_heads() -> Iterator[None]:
    """Let torch's attention take one key head for all query heads, which exports as a group.

    Falcon relies on broadcasting, and its translation to ONNX asks for as many key as query heads.
    """
    attend: Callable[..., torch.Tensor] = functional.scaled_dot_product_attention

    def grouped(
        query: torch.Tensor, key: torch.Tensor, *rest: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        if query.shape[1] != key.shape[1]:
            kwargs["enable_gqa"] = True
        return attend(query, key, *rest, **kwargs)

    functional.scaled_dot_product_attention = grouped
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attend


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend without repeating key and value heads: ONNX Attention groups them itself.

    `query` is [batch, heads, sequence, width], `key` and `value` have kv_heads in place of heads.
    Scores that are soft-capped, or that share their softmax with the sinks `s_aux` [heads], are
    written out in steps: runtimes disagree on whether ONNX Attention caps before it masks.
    """
    if softcap is not None or s_aux is not None:
        return _in_steps(query, key, value, attention_mask, scaling, softcap, s_aux), None
    output = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
        enable_gqa=getattr(module, "num_key_value_groups", 1) > 1,
    )
    return output.transpose(1, 2).contiguous(), None


def finite_mask(*args: object, **kwargs: object) -> torch.Tensor:
    """Return the mask of `sdpa_mask` as numbers to add to the scores, [batch, 1, new, total]."""
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return _added(sdpa_mask(*args, **kwargs))


def _added(allowed: torch.Tensor) -> torch.Tensor:
    return torch.where(allowed, 0.0, _MASKED)


def _in_steps(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    batch, heads, sequence, width = query.shape
    groups = (batch, key.shape[1], heads // key.shape[1], sequence, width)
    scale = width**-0.5 if scaling is None else scaling
    scores = query.reshape(groups) @ key.unsqueeze(2).transpose(-1, -2) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + _added(mask).unsqueeze(1)
    probabilities = _softmax(scores, sinks)
    output = (probabilities @ value.unsqueeze(2)).reshape(batch, heads, sequence, -1)
    return output.transpose(1, 2).contiguous()


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Return the softmax over the last axis of scores [batch, kv_heads, group, new, total]."""
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    shape = scores.shape
    sink = sinks.reshape(1, shape[1], shape[2], 1, 1).expand(*shape[:-1], 1)
    return torch.softmax(torch.cat([scores, sink], dim=-1), dim=-1)[..., :-1]
