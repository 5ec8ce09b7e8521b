"""Say in Hugging Face's words what a GGUF file says in llama.cpp's: configuration and names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.readers.gguf_gemma3 import gemma3_fields
from castline.exporters.readers.gguf_header import GgufHeader, Value
from castline.exporters.readers.tensors import named

if TYPE_CHECKING:
    from transformers import PretrainedConfig


_WHOLE_MODEL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Gemma 3 has a norm before and after each half of a layer.
_IN_GEMMA_LAYER = _IN_LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class GgufFamily:
    """What an architecture of llama.cpp is called at Hugging Face."""

    model_type: str
    model_class: str
    paired_rotary: bool = False
    """Whether llama.cpp stored the query and key rows so that rotary pairs are neighbours."""
    norm_offset: float = 0.0
    """What llama.cpp's converter added to the weight of every norm."""
    in_layer: Mapping[str, str] = field(default_factory=lambda: _IN_LAYER)
    """The modules of a layer: llama.cpp's name -> Hugging Face's."""


FAMILIES = {
    "llama": GgufFamily("llama", "LlamaForCausalLM", paired_rotary=True),
    "qwen2": GgufFamily("qwen2", "Qwen2ForCausalLM"),
    "qwen3": GgufFamily("qwen3", "Qwen3ForCausalLM"),
    "gemma3": GgufFamily(
        "gemma3_text", "Gemma3ForCausalLM", norm_offset=1.0, in_layer=_IN_GEMMA_LAYER
    ),
}
# llama.cpp has no architecture of this name: it calls Mistral llama, and states the window if any.
_MISTRAL = GgufFamily("mistral", "MistralForCausalLM", paired_rotary=True)

_ADVICE = "Download or convert the file again."

_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")

_REQUIRED = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_OPTIONAL = {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
}


def parameter_name(name: str, family: GgufFamily) -> str | None:
    """Return the Hugging Face name of a family's GGUF tensor, None for one that has none."""
    if match := _LAYER_TENSOR.fullmatch(name):
        layer, module, leaf = match.groups()
        known = family.in_layer.get(module)
        return f"model.layers.{layer}.{known}.{leaf}" if known else None
    module, _, leaf = name.rpartition(".")
    return f"{_WHOLE_MODEL[module]}.{leaf}" if module in _WHOLE_MODEL else None


def gguf_family(header: GgufHeader) -> GgufFamily:
    """Return the family of the file; UnsupportedArchitectureError when there is none."""
    architecture = header.metadata.get("general.architecture")
    if architecture is None:
        raise CheckpointError(f"{header.path} does not state general.architecture. {_ADVICE}")
    family = FAMILIES.get(str(architecture))
    if family is None:
        raise UnsupportedArchitectureError(
            f"{header.path} holds the GGUF architecture {architecture}; {', '.join(FAMILIES)} are "
            "read. Use the model's Hugging Face folder instead."
        )
    return _MISTRAL if _window(header) and family.model_type == "llama" else family


def gguf_config(header: GgufHeader, rope_parameters: dict[str, Any]) -> PretrainedConfig:
    """Return the configuration that the metadata and the tensor names of a file describe.

    A file without output.weight ties the head to the embedding. Raises CheckpointError for a file
    that lacks what a configuration needs.
    """
    # Imported late: transformers takes seconds, and names do without.
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415
    from transformers import AutoConfig  # noqa: PLC0415

    family = gguf_family(header)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    if len(shapes.get("token_embd.weight", ())) != 2:
        raise CheckpointError(f"{header.path} has no matrix token_embd.weight. {_ADVICE}")
    fields = model_fields(header) | {
        "architectures": [family.model_class],
        "vocab_size": shapes["token_embd.weight"][0],
        "rope_parameters": rope_parameters,
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _end_tokens(header),
        "pad_token_id": header.metadata.get("tokenizer.ggml.padding_token_id"),
    }
    if family.model_type == "llama":
        fields |= {
            "attention_bias": "blk.0.attn_q.bias" in shapes,
            "mlp_bias": "blk.0.ffn_gate.bias" in shapes,
        }
    if family == _MISTRAL:
        fields["sliding_window"] = _window(header)
    if family.model_type == "gemma3_text":
        fields |= gemma3_fields(header, fields)
    try:
        config: PretrainedConfig = AutoConfig.for_model(family.model_type, **fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise CheckpointError(
            f"{header.path} describes no sound {family.model_type} model: {error}. {_ADVICE}"
        ) from error
    return config


def model_fields(header: GgufHeader) -> dict[str, Any]:
    """Return the sizes of the model under the names of Hugging Face's configurations.

    Raises CheckpointError that names every entry of the metadata which is not one positive number.
    """
    prefix, metadata = header.metadata["general.architecture"], header.metadata
    stated = {key: metadata.get(f"{prefix}.{key}") for key in _REQUIRED | _OPTIONAL}
    wrong = [
        f"{prefix}.{key}"
        for key, value in stated.items()
        if not _is_size(value) and (key in _REQUIRED or value is not None)
    ]
    if wrong:
        raise CheckpointError(
            f"{header.path} must state one positive number for {named(wrong)}. {_ADVICE}"
        )
    names = _REQUIRED | _OPTIONAL
    fields: dict[str, Any] = {names[k]: value for k, value in stated.items() if value is not None}
    heads = fields["num_attention_heads"]
    return {"num_key_value_heads": heads, "head_dim": fields["hidden_size"] // heads} | fields


def _window(header: GgufHeader) -> Value | None:
    prefix = header.metadata.get("general.architecture")
    return header.metadata.get(f"{prefix}.attention.sliding_window")


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and value > 0


def _end_tokens(header: GgufHeader) -> Value | list[Value] | None:
    """Return the token that ends a text and, where it differs, the one that ends a turn."""
    ends = [
        header.metadata[key]
        for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
        if key in header.metadata
    ]
    distinct = list(dict.fromkeys(ends))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)
