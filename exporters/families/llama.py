"""Llama and its kin: pre-norm decoders with RMSNorm, rotary positions and a gated MLP."""

from __future__ import annotations

from castline.exporters.families.family import Family

LLAMA = Family(
    name="llama",
    model_types=frozenset({"llama", "mistral", "qwen2", "qwen3"}),
    # Checkpoints from before transformers 4.32 carry the rotary frequencies as well.
    ignored_tensors=("rotary_emb.inv_freq",),
)
