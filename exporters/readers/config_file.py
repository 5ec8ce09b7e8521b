"""Read config.json, and refuse at once what Castline cannot compile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castline.errors import CheckpointError, UnsupportedArchitectureError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_NAME = "config.json"
_QUANTIZATION = "quantization_config"
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
)  # fmt: skip


def read_config(folder: Path, *, trust_remote_code: bool) -> PretrainedConfig:
    """Return the configuration of a Hugging Face folder.

    With `trust_remote_code`, a folder that brings its own configuration class has it run; without,
    nothing of the folder is ever run. A quantization_config is left out: it tells of the stored
    tensors, and the model is built in float. Raises CheckpointError for a missing, unreadable or
    impossible configuration, UnsupportedArchitectureError for an unknown `model_type`.
    """
    path = folder / _NAME
    fields = json_object(path)
    _refuse_impossible_sizes(path, fields)
    # Imported late: transformers takes seconds, and a bad folder is told at once.
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415
    from transformers import AutoConfig  # noqa: PLC0415

    if not (trust_remote_code and "auto_map" in fields):
        _refuse_unknown(path, fields)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError, StrictDataclassError) as error:
        raise CheckpointError(
            f"{path} is no configuration of {fields.get('model_type')}: {error}"
        ) from error
    vars(config).pop(_QUANTIZATION, None)
    return config


def json_object(path: Path) -> dict[str, Any]:
    """Return the fields of a JSON file of a folder. Raises CheckpointError where it has none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} holds no {path.name}. {_hint(path.parent)}"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}. Download it again.") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is not a JSON object. Download it again.")
    return fields


def _hint(folder: Path) -> str:
    if not any(folder.iterdir()):
        return "The folder is empty; finish the download."
    if files := sorted(folder.glob("*.gguf")):
        return f"To read the GGUF file in it, name the file: {files[0]}."
    return "Name the folder that has config.json and the weights, as save_pretrained writes them."


def _refuse_impossible_sizes(path: Path, fields: dict[str, Any]) -> None:
    """Refuse numbers that transformers would divide by, or make empty matrices of."""
    sizes = {name: fields[name] for name in _SIZES if isinstance(fields.get(name), int)}
    wrong = [f"{name} is {size}, expected 1 or more" for name, size in sizes.items() if size < 1]
    heads, shared = sizes.get("num_attention_heads"), sizes.get("num_key_value_heads")
    if not wrong and heads and shared and heads % shared:
        wrong = [
            f"num_attention_heads is {heads}, expected a multiple of num_key_value_heads, {shared}"
        ]
    if wrong:
        raise CheckpointError(f"{path}: {'; '.join(wrong)}. Get the model's own {_NAME} again.")


def _refuse_unknown(path: Path, fields: dict[str, Any]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: PLC0415 - as above

    model_type = fields.get("model_type")
    if model_type in CONFIG_MAPPING:
        return
    if "auto_map" in fields:
        raise UnsupportedArchitectureError(
            f"{path}: the model type {model_type} needs Python code that comes with the "
            "checkpoint. Read that code and, where you trust it, allow it: --trust-remote-code "
            "on the command line, trust_remote_code=True in Python."
        )
    if model_type is None:
        raise UnsupportedArchitectureError(f"{path} does not state model_type, the architecture.")
    raise UnsupportedArchitectureError(
        f"{path}: model_type {model_type} is unknown to the installed transformers. "
        "If the architecture is newer than it, update it: pip install -U transformers."
    )
