"""Read a compressed-tensors quantization_config: which modules are quantized, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from castline.errors import CheckpointError
from castline.exporters.readers.stored import StoredActivations

Layout = Literal["packed", "int8", "float8"]

FORMATS: Mapping[str, tuple[Layout, ...]] = MappingProxyType({
    "pack-quantized": ("packed",),
    "int-quantized": ("int8",),
    "float-quantized": ("float8",),
    "naive-quantized": ("int8", "float8"),
})  # fmt: skip
"""The formats that are read, and how each may store a weight."""
_MIXED = "mixed-precision"
_BY_TYPE: Mapping[str, tuple[Layout, ...]] = MappingProxyType({
    "int": ("packed", "int8"), "float": ("float8",),
})  # fmt: skip
_STATUS = "compressed"
_WAY_OUT = (
    "Use the checkpoint it was made from, or one in another format: "
    f"{', '.join(FORMATS)} of compressed-tensors are read."
)
_REGEX = "re:"


@dataclass(frozen=True)
class WeightArguments:
    """How the weights of a group of modules are quantized."""

    kind: Literal["integer", "float8"]
    bits: int
    group_size: int | Literal["per-channel", "per-tensor"]
    """As the configuration states it; need not divide K."""
    symmetric: bool
    has_order: bool
    """Whether columns may be in groups out of their order (`actorder: group`)."""


@dataclass(frozen=True)
class ModuleGroup:
    """Modules that are quantized in the same way."""

    name: str
    targets: tuple[str, ...]
    weights: WeightArguments
    activations: StoredActivations | None
    layouts: tuple[Layout, ...]


@dataclass(frozen=True)
class Settings:
    """What the whole configuration says."""

    groups: tuple[ModuleGroup, ...]
    ignore: tuple[str, ...]

    def ignores(self, module: str) -> bool:
        """Return whether a module is left as it was, though a group may name it."""
        return any(_names(entry, module) for entry in self.ignore)

    def group_of(self, module: str) -> ModuleGroup | None:
        """Return the group of a module that is not ignored, the one that names it best.

        A name goes before a pattern, a pattern before a class, as the library has it. A class is
        guessed from the module's name: Embedding where that speaks of embedding, else Linear.
        """
        if self.ignores(module):
            return None
        by_target = {target: group for group in self.groups for target in group.targets}
        embeds = "embed" in module.rpartition(".")[2]
        classes = ("Embedding", "Linear") if embeds else ("Linear",)
        fitting = [target for target in by_target if _names(target, module)]
        fitting.sort(key=lambda target: (target.startswith(_REGEX), target))
        fitting += [name for name in classes if name in by_target]
        return by_target[fitting[0]] if fitting else None


def read_settings(fields: Mapping[str, Any]) -> Settings:
    """Return what a quantization_config says; one CheckpointError for all that cannot be read."""
    problems = _refusals(fields)
    groups = []
    for name, group in _config_groups(fields, problems).items():
        try:
            groups.append(_module_group(name, group, fields.get("format")))
        except CheckpointError as error:
            problems.append(str(error))
    ignore = _listed("ignore", fields.get("ignore"), problems)
    patterns = [*ignore, *(target for group in groups for target in group.targets)]
    problems += [f"{entry!r} is no pattern" for entry in patterns if not _is_pattern(entry)]
    if problems:
        raise CheckpointError(
            f"quantization_config of compressed-tensors: {'; '.join(problems)}. {_WAY_OUT}"
        )
    return Settings(tuple(groups), ignore)


def _refusals(fields: Mapping[str, Any]) -> list[str]:
    problems = []
    stated = fields.get("format")
    if stated not in (*FORMATS, _MIXED):
        problems.append(f"the format {stated} is not supported")
    status = fields.get("quantization_status", _STATUS)
    if status != _STATUS:
        problems.append(f"quantization_status is {status}, expected {_STATUS}: no codes are stored")
    if fields.get("transform_config"):
        problems.append("transform_config asks for rotations (Hadamard), which are not supported")
    sparsity = fields.get("sparsity_config") or {}
    if sparsity.get("format", "dense") != "dense":
        problems.append(f"sparsity_config stores weights as {sparsity['format']}, not supported")
    if fields.get("moe_sparsity_config"):
        problems.append("moe_sparsity_config leaves experts out, which is not supported")
    return problems


def _config_groups(fields: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any]:
    groups = fields.get("config_groups")
    if isinstance(groups, Mapping) and groups:
        return groups
    if not fields.get("kv_cache_scheme"):
        problems.append("config_groups names no modules")
    return {}


def _listed(place: str, stated: Any, problems: list[str]) -> tuple[Any, ...]:
    if not isinstance(stated or [], list):
        problems.append(f"{place} is {stated!r}, expected a list")
        return ()
    return tuple(stated or ())


def _module_group(name: str, fields: Any, format_name: Any) -> ModuleGroup:
    if not isinstance(fields, Mapping):
        raise CheckpointError(f"config_groups.{name} is a preset by its name, expected its fields")
    if not isinstance(fields.get("weights"), Mapping):
        raise CheckpointError(f"config_groups.{name} quantizes no weights, which is not supported")
    if fields.get("output_activations") is not None:
        raise CheckpointError(f"config_groups.{name}: output_activations are not supported")
    weights = _weights(f"config_groups.{name}.weights", fields["weights"])
    stated = fields.get("format") or format_name
    layouts = FORMATS.get(stated)
    if stated == _MIXED:
        layouts = _BY_TYPE["int" if weights.kind == "integer" else "float"]
    if layouts is None:
        raise CheckpointError(f"config_groups.{name}: the format {stated} is not supported")
    inputs = fields.get("input_activations")
    targets = fields.get("targets")
    if not isinstance(targets, list):
        raise CheckpointError(f"config_groups.{name}.targets is {targets!r}, expected a list")
    return ModuleGroup(
        name,
        tuple(targets),
        weights,
        None if inputs is None else _activations(f"config_groups.{name}.input_activations", inputs),
        layouts,
    )


def _weights(place: str, fields: Mapping[str, Any]) -> WeightArguments:
    kind, bits = _number_type(place, fields)
    if fields.get("dynamic"):
        raise CheckpointError(f"{place}.dynamic is {fields['dynamic']}, expected false")
    symmetric = bool(fields.get("symmetric", True))
    if kind == "float8" and not symmetric:
        raise CheckpointError(f"{place}.symmetric is false, expected true for float weights")
    return WeightArguments(
        kind, bits, _granularity(place, fields), symmetric,
        has_order=fields.get("actorder") in (True, "group", "dynamic"),
    )  # fmt: skip


def _granularity(
    place: str, fields: Mapping[str, Any]
) -> int | Literal["per-channel", "per-tensor"]:
    size, strategy = fields.get("group_size"), fields.get("strategy")
    if strategy is None:
        strategy = {None: "tensor", -1: "channel"}.get(size, "group")
    if strategy == "tensor":
        return "per-tensor"
    if strategy == "channel":
        return "per-channel"
    if strategy != "group":
        raise CheckpointError(f"{place}.strategy {strategy} is not supported")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise CheckpointError(f"{place}.group_size is {size}, expected 1 or more")
    return size


def _activations(place: str, fields: Mapping[str, Any]) -> StoredActivations:
    kind, bits = _number_type(place, fields)
    strategy, dynamic = fields.get("strategy"), fields.get("dynamic", False)
    if strategy is None:
        strategy = "tensor"
    if dynamic not in (True, False) or (strategy, dynamic) not in (
        ("token", True), ("tensor", True), ("tensor", False),
    ):  # fmt: skip
        raise CheckpointError(f"{place}: strategy {strategy} with dynamic {dynamic} is unsupported")
    symmetric = bool(fields.get("symmetric", True))
    return StoredActivations(kind, bits, strategy == "token", bool(dynamic), symmetric)


def _number_type(place: str, fields: Mapping[str, Any]) -> tuple[Literal["integer", "float8"], int]:
    stated, bits = str(fields.get("type", "int")).lower(), fields.get("num_bits", 8)
    if stated == "int" and bits in range(2, 9):
        return "integer", bits
    if stated == "float" and bits == 8:
        return "float8", bits
    raise CheckpointError(f"{place} has type {stated} of {bits} bits, which is not supported")


def _names(entry: str, module: str) -> bool:
    if entry.startswith(_REGEX):
        return re.match(entry.removeprefix(_REGEX), module) is not None
    return entry == module


def _is_pattern(entry: Any) -> bool:
    if not isinstance(entry, str):
        return False
    try:
        re.compile(entry.removeprefix(_REGEX) if entry.startswith(_REGEX) else "")
    except re.error:
        return False
    return True
