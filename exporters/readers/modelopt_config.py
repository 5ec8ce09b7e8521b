"""Read how ModelOpt says what it quantized: hf_quant_config.json, or config.json's own section.

The nested form has all below `quantization`, the flat one, which follows compressed-tensors, has
`ignore` for `exclude_modules`, and the group size in `config_groups`, where it states any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal

from castline.errors import CheckpointError
from castline.exporters.readers.stored import StoredActivations
from castline.exporters.readers.tensors import named

MIXED = "MIXED_PRECISION"


@dataclass(frozen=True)
class Algorithm:
    """What one of ModelOpt's quant_algo stores of a linear."""

    kind: Literal["integer", "float8"]
    bits: int
    activations: StoredActivations | None = None


def _static(kind: Literal["integer", "float8"]) -> StoredActivations:
    return StoredActivations(kind, 8, per_token=False, dynamic=False, symmetric=True)


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType({
    "W4A16_AWQ": Algorithm("integer", 4),
    "W8A16": Algorithm("integer", 8),
    "W8A8_SQ_PER_CHANNEL": Algorithm("integer", 8, _static("integer")),
    "INT8_SQ": Algorithm("integer", 8, _static("integer")),
    "FP8": Algorithm("float8", 8, _static("float8")),
    "FP8_PER_CHANNEL_PER_TOKEN": Algorithm(
        "float8", 8, StoredActivations("float8", 8, per_token=True, dynamic=True, symmetric=True)
    ),
})  # fmt: skip
_WAY_OUT = (
    f"{', '.join(ALGORITHMS)} and {MIXED} of these are read; otherwise use the checkpoint that it "
    "was made from"
)
_COMPARED = ("algorithm", "group_size", "excluded", "layers")


@dataclass(frozen=True)
class LayerSettings:
    """How one layer of a mixed model is quantized."""

    algorithm: str
    group_size: int | None


@dataclass(frozen=True)
class Settings:
    """What one of the two forms says."""

    algorithm: str
    group_size: int | None
    """None where it is not stated, as by the flat form of W4A16_AWQ."""
    excluded: tuple[str, ...]
    """Modules, or patterns with stars, that are not quantized."""
    layers: Mapping[str, LayerSettings]
    """Of a mixed model: how each quantized module is."""

    def of_module(self, module: str) -> LayerSettings | None:
        """Return how a module is quantized, None where it is not."""
        if self.algorithm == MIXED:
            return self.layers.get(module)
        if any(fnmatchcase(module, each) for each in self.excluded):
            return None
        return LayerSettings(self.algorithm, self.group_size)


def read_settings(fields: Mapping[str, Any]) -> Settings:
    """Return what either form says. Raises CheckpointError for what is not supported."""
    inner = fields.get("quantization")
    nested = isinstance(inner, Mapping)
    own: Mapping[str, Any] = inner if isinstance(inner, Mapping) else fields
    excluded = "exclude_modules" if nested else "ignore"
    _require_kinds(own, {"quantized_layers": Mapping, "config_groups": Mapping, excluded: list})
    layers = {
        module: LayerSettings(str(each.get("quant_algo")), each.get("group_size"))
        for module, each in (own.get("quantized_layers") or {}).items()
    }
    algorithm = _algorithm(own)
    settings = Settings(
        algorithm,
        own.get("group_size") if nested else _flat_group_size(own),
        tuple(own.get(excluded) or ()),
        layers if algorithm == MIXED else {},
    )
    _refuse_unsupported(settings, zero_points=bool(own.get("has_zero_point")))
    return settings


def require_same(settings: Settings, beside: Settings) -> None:
    """Raise CheckpointError that names what hf_quant_config.json and config.json differ in.

    A group size that only one of them states is no difference.
    """
    differing = []
    for field in _COMPARED:
        first, second = getattr(settings, field), getattr(beside, field)
        if field == "group_size" and None in (first, second):
            continue
        if field == "excluded":
            first, second = sorted(first), sorted(second)
        if first != second:
            differing.append(f"{field}: {first} and {second}")
    if differing:
        raise CheckpointError(
            f"hf_quant_config.json and config.json describe ModelOpt's quantization differently "
            f"({'; '.join(differing)}). Get both again, from one export."
        )


def _require_kinds(fields: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    wrong = [
        f"{field} is {fields[field]!r}, expected {'a list' if kind is list else 'an object'}"
        for field, kind in kinds.items()
        if fields.get(field) and not isinstance(fields[field], kind)
    ]
    if wrong:
        raise CheckpointError(f"ModelOpt's quantization: {'; '.join(wrong)}. Get it again.")


def _flat_group_size(fields: Mapping[str, Any]) -> int | None:
    groups = fields.get("config_groups") or {}
    sizes = {(each.get("weights") or {}).get("group_size") for each in groups.values()} - {None}
    return sizes.pop() if len(sizes) == 1 else None


def _algorithm(fields: Mapping[str, Any]) -> str:
    algorithm = fields.get("quant_algo")
    if algorithm:
        return str(algorithm)
    if fields.get("kv_cache_quant_algo") or fields.get("kv_cache_scheme"):
        raise CheckpointError(
            "ModelOpt quantized the key-value cache alone (quant_algo is empty), which is not "
            "carried on. Take hf_quant_config.json and quantization_config away: the weights are "
            "the original ones."
        )
    raise CheckpointError("ModelOpt's quantization states no quant_algo. Get it again.")


def _refuse_unsupported(settings: Settings, *, zero_points: bool) -> None:
    used = {each.algorithm for each in settings.layers.values()}
    if settings.algorithm == MIXED and not used:
        raise CheckpointError(f"ModelOpt's {MIXED} names no quantized_layers. Get it again.")
    unknown = sorted((used | {settings.algorithm}) - {*ALGORITHMS, MIXED})
    if unknown:
        raise CheckpointError(f"ModelOpt's quant_algo {named(unknown)} is unsupported. {_WAY_OUT}.")
    if zero_points:
        raise CheckpointError(f"ModelOpt's has_zero_point is true, expected false. {_WAY_OUT}.")
