"""Recover what a GGUF file of Gemma 3 leaves to llama.cpp: windows, scales, two rotary bases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from castline.errors import CheckpointError
from castline.exporters.readers.gguf_header import GgufHeader, Value

_LAYERS_27B = 62  # by which llama.cpp knows the one size that scales its scores otherwise
_PERIOD = 6  # the last layer of each so many sees the whole text
_LOCAL_BASE = 10000.0


def gemma3_fields(header: GgufHeader, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Hugging Face's configuration has beyond `fields`, those of every family.

    `fields` holds the sizes and, as rope_parameters, how layers with full attention turn positions.
    Raises CheckpointError for a file without a window, or with a number that is none.
    Source: the hyperparameters of LLM_ARCH_GEMMA3 in llama.cpp's llama-model.cpp.
    """
    window = _whole(header, "attention.sliding_window", None)
    period = _whole(header, "attention.sliding_window_pattern", _PERIOD)
    layers, heads = fields["num_hidden_layers"], fields["num_attention_heads"]
    local = _number(header, "rope.freq_base_swa", _LOCAL_BASE)
    cap = "final_logit_softcapping"
    return {
        "sliding_window": window,
        "layer_types": [
            "full_attention" if layer % period == period - 1 else "sliding_attention"
            for layer in range(layers)
        ],
        "query_pre_attn_scalar": (
            fields["hidden_size"] // heads if layers == _LAYERS_27B else fields["head_dim"]
        ),
        cap: _number(header, cap, None) if f"gemma3.{cap}" in header.metadata else None,
        "rope_parameters": {
            "full_attention": fields["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


def _whole(header: GgufHeader, key: str, default: int | None) -> int:
    return int(_number(header, key, default))


def _number(header: GgufHeader, key: str, default: float | None) -> float:
    value: Value | None = header.metadata.get(f"gemma3.{key}", default)
    if isinstance(value, int | float) and value > 0:
        return float(value)
    raise CheckpointError(
        f"{header.path} must state one positive number for gemma3.{key}. "
        "Download or convert the file again."
    )
