"""Tell from a tensor's or node's path what kind of layer it belongs to."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

LayerKind: TypeAlias = Literal["embedding", "attention", "mlp", "norm", "head", "other"]

# The first match decides: norms stand inside attention blocks and heads are called embed_out.
_PATTERNS: tuple[tuple[LayerKind, re.Pattern[str]], ...] = (
    ("norm", re.compile(r"norm|(^|[./_])ln(_|\d|$|\.)", re.IGNORECASE)),
    ("head", re.compile(r"lm_head|embed_out|(^|[./])output\.weight")),
    ("embedding", re.compile(r"embed|token_embd|(^|[./])wte|(^|[./])wpe")),
    ("attention", re.compile(r"attn|attention|[qkvo]_proj|qkv|query_key_value", re.IGNORECASE)),
    (
        "mlp",
        re.compile(
            r"mlp|ffn|feed_forward|expert|moe|(gate|up|down)_proj|(^|[./])fc[12]|c_fc"
            r"|intermediate|output[./]dense"
        ),
    ),
)


def layer_kind(*paths: str) -> LayerKind:
    """Return the kind that the first telling one of `paths` shows.

    model.layers.0.self_attn.q_proj.weight is attention, /model/layers.0/mlp/up_proj/MatMul is mlp.
    """
    for path in paths:
        for kind, pattern in _PATTERNS:
            if pattern.search(path):
                return kind
    return "other"
