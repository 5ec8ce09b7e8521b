"""Describe a decoder to onnxruntime-genai, as genai_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from castline.exporters import names

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GENAI_CONFIG = "genai_config.json"


def write_genai_config(
    folder: Path, config: PretrainedConfig, *, shares_cache: bool, stop_tokens: list[int]
) -> None:
    """Write genai_config.json for the model.onnx in `folder`.

    `stop_tokens` end a generation; `shares_cache` says that past and present may be one buffer.
    """
    heads = config.num_attention_heads
    padding = config.pad_token_id
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "hidden_size": config.hidden_size,
        "inputs": {
            "input_ids": names.INPUT_IDS,
            "attention_mask": names.ATTENTION_MASK,
            "position_ids": names.POSITION_IDS,
            "past_key_names": names.PAST_PATTERN.format(slot="key"),
            "past_value_names": names.PAST_PATTERN.format(slot="value"),
        },
        "outputs": {
            "logits": names.LOGITS,
            "present_key_names": names.PRESENT_PATTERN.format(slot="key"),
            "present_value_names": names.PRESENT_PATTERN.format(slot="value"),
        },
        "num_attention_heads": heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
    }
    document = {
        "model": {
            "bos_token_id": config.bos_token_id,
            "eos_token_id": stop_tokens[0] if len(stop_tokens) == 1 else stop_tokens or None,
            "pad_token_id": next(iter(stop_tokens), None) if padding is None else padding,
            "context_length": config.max_position_embeddings,
            "vocab_size": config.vocab_size,
            "type": config.model_type,
            "decoder": decoder,
        },
        "search": {
            "do_sample": False,
            "max_length": config.max_position_embeddings,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": shares_cache,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }
    document["model"] = {k: v for k, v in document["model"].items() if v is not None}
    text = json.dumps(document, indent=2, sort_keys=True)
    (folder / GENAI_CONFIG).write_text(text + "\n", encoding="utf-8")


def stop_tokens(folder: Path, config: PretrainedConfig) -> list[int]:
    """Return the tokens that end a generation, from generation_config.json or else the config."""
    path = folder / "generation_config.json"
    listed = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = listed.get("eos_token_id", config.eos_token_id)
    if found is None:
        found = config.eos_token_id
    if found is None:
        return []
    return list(found) if isinstance(found, list) else [int(found)]
