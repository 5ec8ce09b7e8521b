"""Recognize what an attention mask allows, by computing it for a few prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.evaluate import evaluate, sources
from castline.compiler.quant.arrays import Array
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS


@dataclass(frozen=True)
class CausalMask:
    """Allows a token what is not padding, not later, and no further back than a window."""

    window: int | None
    """Tokens that are seen, the token itself included; None for all."""


def causal_mask(mask: ir.Value, context_length: int) -> CausalMask | str:
    """Return the form of `mask`, bool [batch, 1, sequence, total], or why it is another.

    The window is counted in one long row, and the form is then held against the mask for prompts
    with padding on either side and inside, with and without a past, around the window's edge.
    """
    inputs = {str(value.name): value for value in sources(mask)}
    if set(inputs) != {INPUT_IDS, ATTENTION_MASK}:
        return f"it depends on {', '.join(sorted(inputs))}"
    tokens, padding = inputs[INPUT_IDS], inputs[ATTENTION_MASK]

    def allowed(sequence: int, row_mask: Array) -> Array:
        ids = np.zeros((len(row_mask), sequence), np.int64)
        return evaluate(mask, {tokens: ids, padding: row_mask})

    seen = int(allowed(1, np.ones((1, context_length), np.int64)).sum())
    form = CausalMask(None if seen == context_length else seen)
    for sequence, row_mask in _probes(form.window or 4, context_length):
        expected = np.broadcast_to(
            _expected(form, sequence, row_mask), (2, 1, sequence, row_mask.shape[1])
        )
        if not np.array_equal(allowed(sequence, row_mask), expected):
            return "it is neither causal nor a sliding window"
    return form


def _probes(window: int, context_length: int) -> list[tuple[int, Array]]:
    """Return pairs of new tokens and a mask [2, total] with padding in different places."""
    probes = []
    for sequence, total in ((5, 5), (1, window + 3), (3, window + 4)):
        if total > context_length:
            continue
        mask = np.ones((2, total), np.int64)
        mask[0, : min(2, total - 1)] = 0
        mask[1, total // 2 : total - 1] = 0
        probes.append((sequence, mask))
    return probes


def _expected(form: CausalMask, sequence: int, mask: Array) -> Array:
    total = mask.shape[1]
    query = np.arange(total - sequence, total)[:, None]
    key = np.arange(total)[None]
    allowed = key <= query
    if form.window is not None:
        allowed &= query - key < form.window
    within: Array = allowed[None, None] & mask.astype(bool)[:, None, None]
    return within
