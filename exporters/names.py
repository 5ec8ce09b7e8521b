"""Name a model's inputs, outputs and axes as the ecosystem does."""

from __future__ import annotations

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
POSITION_IDS = "position_ids"
TOKEN_TYPE_IDS = "token_type_ids"
TOKEN_INPUTS = (INPUT_IDS, ATTENTION_MASK, POSITION_IDS, TOKEN_TYPE_IDS)
"""The inputs that say what the tokens are; every other input is a cache or a weight."""
WRITE_INDICES = "write_indices"
"""int64 [batch], with a fixed cache alone: where each row's new tokens are written."""
LOGITS = "logits"
LAST_HIDDEN_STATE = "last_hidden_state"

BATCH = "batch_size"
SEQUENCE = "sequence_length"
PAST = "past_sequence_length"
TOTAL = "total_sequence_length"
CAPACITY = "cache_capacity"
"""How many tokens a fixed cache has room for."""

PAST_PREFIX = "past_key_values."
PRESENT_PREFIX = "present."
PAST_PATTERN = PAST_PREFIX + "%d.{slot}"
PRESENT_PATTERN = PRESENT_PREFIX + "%d.{slot}"
SLOTS = ("key", "value")


def past_name(layer: int, slot: str) -> str:
    """Return the input that carries a layer's cache; `slot` is "key" or "value"."""
    return PAST_PATTERN.format(slot=slot) % layer


def present_name(layer: int, slot: str) -> str:
    """Return the output that carries a layer's cache; `slot` is "key" or "value"."""
    return PRESENT_PATTERN.format(slot=slot) % layer


def is_input(name: str) -> bool:
    """Return whether `name` belongs to the interface: tokens or a cache, and not a weight."""
    return name in TOKEN_INPUTS or name.startswith(PAST_PREFIX)
