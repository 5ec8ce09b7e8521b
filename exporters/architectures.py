"""List the architectures whose export the tests hold against Hugging Face's own code."""

from __future__ import annotations

PROVEN = frozenset(
    {
        "bert",
        "bloom",
        "cohere",
        "distilbert",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt2",
        "gpt_neox",
        "llama",
        "mistral",
        "mixtral",
        "olmo2",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "roberta",
    }
)
"""Values of `model_type` in config.json. Any other is tried on a cut copy before it is exported."""
