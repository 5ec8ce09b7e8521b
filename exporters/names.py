"""Name a decoder's inputs, outputs and axes as the ecosystem does."""

from __future__ import annotations

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
POSITION_IDS = "position_ids"
LOGITS = "logits"

BATCH = "batch_size"
SEQUENCE = "sequence_length"
PAST = "past_sequence_length"
TOTAL = "total_sequence_length"

PAST_PATTERN = "past_key_values.%d.{slot}"
PRESENT_PATTERN = "present.%d.{slot}"
SLOTS = ("key", "value")


def past_name(layer: int, slot: str) -> str:
    """Return the input that carries a layer's cache; `slot` is "key" or "value"."""
    return PAST_PATTERN.format(slot=slot) % layer


def present_name(layer: int, slot: str) -> str:
    """Return the output that carries a layer's cache; `slot` is "key" or "value"."""
    return PRESENT_PATTERN.format(slot=slot) % layer
