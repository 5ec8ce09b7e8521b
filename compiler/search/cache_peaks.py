"""Observe the keys and values that a model would keep in its cache."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from transformers import DynamicCache

Tensor: TypeAlias = torch.Tensor


class ObservedCache(DynamicCache):  # type: ignore[misc]  # transformers is untyped
    """A cache that keeps nothing but the largest absolute value of each channel of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[int, tuple[Tensor, Tensor]] = {}
        """Layer -> peaks of keys and of values, [heads, head size] each."""

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,  # noqa: ARG002 - transformers' signature
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Note keys and values [B, heads, S, head size]; return them as they are."""
        key, value = (states.abs().amax(dim=(0, 2)) for states in (key_states, value_states))
        if layer_idx in self.peaks:
            known = self.peaks[layer_idx]
            key, value = torch.maximum(known[0], key), torch.maximum(known[1], value)
        self.peaks[layer_idx] = (key, value)
        return key_states, value_states
