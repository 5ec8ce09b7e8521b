"""Choose how a folder's quantized tensors are read, by what its configuration files say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from castline.errors import CheckpointError
from castline.exporters.readers.autoawq import AutoAwq
from castline.exporters.readers.compressed_tensors import CompressedTensors
from castline.exporters.readers.config_file import json_object
from castline.exporters.readers.gptq import Gptq
from castline.exporters.readers.modelopt import ModelOpt
from castline.exporters.readers.stored import StoredFormat

Fields: TypeAlias = Mapping[str, Any]

_FORMATS: Mapping[str, Callable[..., StoredFormat]] = MappingProxyType({
    "awq": AutoAwq.of,
    "gptq": Gptq.of,
    "compressed-tensors": CompressedTensors.of,
    "modelopt": ModelOpt.of,
})  # fmt: skip
_GRID = "its codes stand for no evenly spaced values"
_BLOCKS = "its scales belong to blocks of rows and columns"
_ARRANGED = "its tensors are arranged for the kernels of one library"
_UNREAD = MappingProxyType(
    {
        "aqlm": _GRID,
        "auto-round": "its tensors are laid out in several ways; AutoRound also writes auto_gptq "
        "and auto_awq, which are read",
        "bitnet": "its weights are ternary",
        "bitsandbytes": f"{_GRID}, or it keeps outliers apart",
        "eetq": _ARRANGED,
        "exl2": _ARRANGED,
        "exl3": _GRID,
        "fbgemm_fp8": _ARRANGED,
        "fp8": _BLOCKS,
        "fp_quant": _BLOCKS,
        "higgs": _GRID,
        "hqq": "its zero-points are fractions",
        "intel/auto-round": "as auto-round",
        "mxfp4": _BLOCKS,
        "quark": _ARRANGED,
        "quip": _GRID,
        "quanto": _ARRANGED,
        "spqr": "it keeps outliers apart",
        "torchao": "its tensors are objects of torchao, not plain arrays",
        "vptq": _GRID,
    }
)
_WAY_OUT = (
    "Use the original checkpoint, in float16, bfloat16 or float32, or one that is quantized by "
    f"{', '.join(_FORMATS)}, or as GGUF."
)
_CONFIG, _MODELOPT = "config.json", "hf_quant_config.json"
_IN_CONFIG = ("quantization_config", "compression_config")
# Where AutoGPTQ and AutoAWQ wrote before transformers had a field for it, and what tells theirs.
_OLD_FILES = (("quantize_config.json", "bits", "gptq"), ("quant_config.json", "w_bit", "awq"))
SIDE_FILES = (_MODELOPT, *(name for name, _, _ in _OLD_FILES))
"""What a folder may have beside config.json that says how its weights are stored."""


def stored_format(folder: Path) -> StoredFormat | None:
    """Return how the quantized tensors of a Hugging Face folder are stored, None if none are.

    Raises CheckpointError for a method that is not read, a configuration that cannot be, and two
    that tell of different methods.
    """
    found = dict(_configurations(folder))
    if not found:
        return None
    place, (method, _) = next(iter(found.items()))
    if len({each for each, _ in found.values()}) > 1:
        said = " and ".join(f"{each} ({name})" for name, (each, _) in found.items())
        raise CheckpointError(
            f"{folder} mixes formats: {said}. Remove the file that does not belong to the weights."
        )
    if method not in _FORMATS:
        raise CheckpointError(f"{folder / place}: {_refusal(method)} {_WAY_OUT}")
    try:
        # Only ModelOpt has two files; it takes both, to compare them.
        return _FORMATS[method](*(fields for _, fields in found.values()))
    except CheckpointError as error:
        raise CheckpointError(f"{folder / place}: {str(error).rstrip('.')}.") from error


def side_files(folder: Path) -> tuple[Path, ...]:
    """Return those of SIDE_FILES that say how the weights of a folder are stored."""
    return tuple(folder / name for name, _ in _configurations(folder) if name in SIDE_FILES)


def _configurations(folder: Path) -> Iterator[tuple[str, tuple[str, Fields]]]:
    """Yield each file that tells how the weights are quantized, the method, and its fields."""
    config = json_object(folder / _CONFIG)
    described = next(filter(None, map(config.get, _IN_CONFIG)), None)
    if described:
        yield _CONFIG, (_method(described), _unnested(described))
    if (folder / _MODELOPT).is_file():
        yield _MODELOPT, ("modelopt", json_object(folder / _MODELOPT))
    elif not described:
        yield from _old_configurations(folder)


def _old_configurations(folder: Path) -> Iterator[tuple[str, tuple[str, Fields]]]:
    for name, field, method in _OLD_FILES:
        if (folder / name).is_file() and field in (fields := json_object(folder / name)):
            yield name, (method, fields)


def _method(fields: object) -> str:
    if not isinstance(fields, dict):
        return ""
    stated = fields.get("quant_method")
    if stated is None and "config_groups" in _unnested(fields):
        return "compressed-tensors"
    return str(stated or "").lower()


def _unnested(fields: Any) -> Fields:
    """Return the fields, of an old compression_config those of the quantization in it."""
    inner = fields.get("quantization_config") if isinstance(fields, dict) else None
    return inner if isinstance(inner, dict) else fields


def _refusal(method: str) -> str:
    if not method:
        return "quantization_config does not state quant_method, what the weights are quantized by."
    reason = _UNREAD.get(method, "castline knows no format of this name")
    return f"the weights are quantized by {method}, which is not read: {reason}."
