"""Describe a decoder to onnxruntime-genai, as genai_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castline.compiler.targets.options import Provider
from castline.errors import CheckpointError
from castline.exporters import names
from castline.exporters.context import context_length

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GENAI_CONFIG = "genai_config.json"
GENERATION_CONFIG = "generation_config.json"
_ANY_DECODER = "decoder"  # what onnxruntime-genai calls one that it knows nothing special of
# Those of onnxruntime-genai 0.18 that are decoders, but for gpt2: to it that is a graph whose keys
# and values are one tensor, and ours are two.
_KNOWN_TYPES = frozenset(
    {
        "chatglm", "ernie4_5", "gemma", "gemma2", "gemma3_text", "granite", "internlm2", "lfm2",
        "llama", "mistral", "nemotron", "olmo", "phi", "phi3", "phi3small", "phimoe", "qwen2",
        "qwen3", "smollm3",
    }
)  # fmt: skip
# By the names that onnxruntime-genai has for them, with the options of its own model builder.
_PROVIDERS: Mapping[Provider, list[dict[str, dict[str, str]]]] = {
    "cpu": [],
    "cuda": [{"cuda": {"enable_cuda_graph": "0"}}],
    "tensorrt-rtx": [{"NvTensorRtRtx": {"enable_cuda_graph": "1"}}],
}
_AGAIN = "Download it again, or remove it: the tokens of config.json then end a text."


def write_genai_config(
    folder: Path,
    config: PretrainedConfig,
    *,
    shares_cache: bool,
    stop_tokens: list[int],
    provider: Provider = "cpu",
) -> None:
    """Write genai_config.json for the model.onnx in `folder`, which was lowered for `provider`.

    `stop_tokens` end a generation; `shares_cache` says that past and present may be one buffer.
    """
    heads = config.num_attention_heads
    context = context_length(config)
    padding = config.pad_token_id
    decoder = {
        "session_options": {
            "log_id": "onnxruntime-genai",
            "provider_options": _PROVIDERS[provider],
        },
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
        "num_key_value_heads": _key_value_heads(config),
    }
    document = {
        "model": {
            "bos_token_id": config.bos_token_id,
            "eos_token_id": stop_tokens[0] if len(stop_tokens) == 1 else stop_tokens or None,
            "pad_token_id": next(iter(stop_tokens), None) if padding is None else padding,
            "context_length": context,
            "vocab_size": config.vocab_size,
            "type": config.model_type if config.model_type in _KNOWN_TYPES else _ANY_DECODER,
            "decoder": decoder,
        },
        "search": {
            "do_sample": False,
            "max_length": context,
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


def _key_value_heads(config: PretrainedConfig) -> int:
    """Return how many heads a layer's cache has, also by the words of Falcon's configuration."""
    shares_one = getattr(config, "multi_query", False)
    if shares_one and not getattr(config, "new_decoder_architecture", False):
        return 1
    named = (getattr(config, name, None) for name in ("num_key_value_heads", "num_kv_heads"))
    return int(next((heads for heads in named if heads), config.num_attention_heads))


def stop_tokens(settings: Mapping[str, object], config: PretrainedConfig) -> list[int]:
    """Return the tokens that end a generation, from generation settings or else the config."""
    found: Any = settings.get("eos_token_id")
    if found is None:
        found = config.eos_token_id
    if found is None:
        return []
    return list(found) if isinstance(found, list) else [found]


def generation_settings(folder: Path, source: str) -> Mapping[str, object]:
    """Return what the generation_config.json copied from `source` into `folder` says; {} if none.

    Raises CheckpointError, which names the file of `source`, when it is no JSON object or its
    eos_token_id is neither a number nor a list of numbers.
    """
    path, original = folder / GENERATION_CONFIG, f"{source}/{GENERATION_CONFIG}"
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{original} is not JSON: {error}. {_AGAIN}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{original} is not a JSON object. {_AGAIN}")
    tokens = settings.get("eos_token_id")
    for token in tokens if isinstance(tokens, list) else [tokens]:
        if token is not None and not isinstance(token, int):
            raise CheckpointError(
                f"{original}: eos_token_id is {tokens!r}, expected a number or a list of numbers. "
                f"{_AGAIN}"
            )
    return settings
