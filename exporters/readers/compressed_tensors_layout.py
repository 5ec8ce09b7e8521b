"""Find out from names and shapes how compressed-tensors stores one linear.

    part               packed                    int8, float8
    weight_packed      int32 [N, words of K]
    weight                                       int8 or float8_e4m3fn [N, K]
    weight_scale       [1] per tensor, [N, 1] per channel, [N, groups]
    weight_zero_point  int32 [words of N, groups] integers in the shape of the scales
    weight_g_idx       int32 [K], the group of each column, where columns were reordered
    weight_shape       N and K
    input_scale, input_zero_point                [1] each, for static activations

Source: compressors/pack_quantized and compressors/naive_quantized of compressed-tensors 0.9 to
0.20. Up to 0.13 codes that do not divide 32 are padded in their words, later they straddle them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.compressed_tensors_config import Layout, ModuleGroup
from castline.exporters.readers.packed_words import word_count
from castline.exporters.readers.stored import StoredLinear, StoredScheme
from castline.exporters.readers.stored_groups import group_count, group_within
from castline.exporters.readers.stored_parts import FLOAT8, require_float
from castline.exporters.readers.tensors import TensorSpec, named

_OPTIONAL = ("weight_g_idx", "weight_shape", "weight_zero_point")
_KNOWN = (
    *_OPTIONAL, "weight", "weight_packed", "weight_scale", "input_scale", "input_zero_point",
)  # fmt: skip
_UNKNOWN = ("weight_global_scale", "input_global_scale", "output_scale", "output_zero_point")
_INT32, _INT8 = np.dtype(np.int32), np.dtype(np.int8)
_BLOCK = 32  # codes; a multiple of it fills whole words, whatever the bits


@dataclass(frozen=True)
class Parts:
    """The stored tensors of one module."""

    module: str
    names: Mapping[str, str]
    specs: Mapping[str, TensorSpec]

    @staticmethod
    def of(module: str, tensors: Mapping[str, TensorSpec]) -> Parts:
        """Return those of the tensors that are parts of a module."""
        names = {
            part: f"{module}.{part}"
            for part in (*_KNOWN, *_UNKNOWN)
            if f"{module}.{part}" in tensors
        }
        return Parts(module, names, {part: tensors[name] for part, name in names.items()})

    @property
    def layout(self) -> Layout:
        """How the codes are stored. Raises CheckpointError where there are none."""
        if "weight_packed" in self.specs:
            return "packed"
        weight = self.specs.get("weight")
        if weight is not None and weight.dtype == _INT8:
            return "int8"
        if weight is not None and weight.dtype == FLOAT8:
            return "float8"
        stored = "absent" if weight is None else str(weight.dtype)
        raise CheckpointError(f"{self.module}.weight is {stored}, though it has scales")

    def shape(self, part: str) -> tuple[int, ...]:
        """Return a part's shape."""
        return self.specs[part].shape

    def wrong(self, part: str, expected: str) -> CheckpointError:
        """Return the error that a part is not what is expected."""
        spec = self.specs[part]
        return CheckpointError(
            f"{self.names[part]} is {spec.dtype} {list(spec.shape)}, expected {expected}"
        )


def stored_linear(parts: Parts, group: ModuleGroup) -> StoredLinear:
    """Return how a module's weight is stored. Raises CheckpointError for a contradiction."""
    _require_parts(parts, group)
    n, k = _weight_shape(parts, group)
    stated = group.weights.group_size
    _require_scales(parts, n, k, stated)
    _require_zero_points(parts, group, n, k)
    size = group_within(stated, k) if isinstance(stated, int) else stated
    if size is None:
        raise CheckpointError(f"{parts.module}.weight has K = {k}, which groups of {stated} divide "
                              "neither evenly nor into parts of 16 or more")  # fmt: skip
    scheme = StoredScheme(
        group.weights.kind,
        group.weights.bits,
        size,
        group.weights.symmetric,
        has_order=group.weights.has_order and "weight_g_idx" in parts.names,
        activations=group.activations,
    )
    return StoredLinear(scheme, TensorSpec((n, k), parts.specs["weight_scale"].dtype), parts.names)


def _require_parts(parts: Parts, group: ModuleGroup) -> None:
    if parts.layout not in group.layouts:
        raise CheckpointError(
            f"{parts.module} stores {parts.layout} codes, and its group {group.name} is of "
            f"{named(group.layouts)} codes"
        )
    required = ["weight_scale"]
    required += [] if group.weights.symmetric else ["weight_zero_point"]
    static = group.activations is not None and not group.activations.dynamic
    if static and group.activations is not None:
        required += ["input_scale"]
        required += [] if group.activations.symmetric else ["input_zero_point"]
    absent = [f"{parts.module}.{part}" for part in required if part not in parts.names]
    if absent:
        raise CheckpointError(f"{named(absent)} is absent")
    surplus = [parts.names[part] for part in _UNKNOWN if part in parts.names]
    surplus += [parts.names["weight"]] if {"weight", "weight_packed"} <= set(parts.names) else []
    if not static:
        surplus += [name for part, name in parts.names.items() if part.startswith("input_")]
    if surplus:
        raise CheckpointError(f"{named(surplus)} is stored, which the configuration has no use for")
    for part in ("input_scale", "input_zero_point"):
        if part in parts.names and parts.specs[part].size != 1:
            raise parts.wrong(part, "one number")


def _weight_shape(parts: Parts, group: ModuleGroup) -> tuple[int, int]:
    """Return N and K as shapes tell them; what weight_shape says is compared on reading."""
    part = "weight_packed" if parts.layout == "packed" else "weight"
    if len(parts.shape(part)) != 2:
        raise parts.wrong(part, "two dimensions")
    n, width = parts.shape(part)
    k = width if part == "weight" else _columns(parts, group, width)
    if "weight_g_idx" in parts.names and parts.shape("weight_g_idx") != (k,):
        raise parts.wrong("weight_g_idx", f"[{k}]")
    return n, k


def _columns(parts: Parts, group: ModuleGroup, words: int) -> int:
    """Return K of a packed weight."""
    if parts.specs["weight_packed"].dtype != _INT32:
        raise parts.wrong("weight_packed", "int32")
    bits, stated = group.weights.bits, group.weights.group_size
    fitting = {
        k
        for straddled in (True, False)
        for k in _candidates(words, bits, straddled=straddled)
        if word_count(k, bits, straddled=straddled) == words
    }
    if isinstance(stated, int):
        shape = parts.shape("weight_scale")
        fitting = {k for k in fitting if shape[1:] == (group_count(stated, k),)}
        whole = {k for k in fitting if k % stated == 0}
        fitting = whole or fitting
    if len(fitting) != 1:
        choices = f"K may be {named(map(str, sorted(fitting)))}" if fitting else "no K fits"
        raise CheckpointError(
            f"{parts.names['weight_packed']} has {words} words a row: of {bits} bits and groups "
            f"{stated}, beside scales {list(parts.shape('weight_scale'))}, {choices}"
        )
    return fitting.pop()


def _candidates(words: int, bits: int, *, straddled: bool) -> list[int]:
    """Return what K can be that fills so many words: all of them, or the next multiple of 32."""
    if 32 % bits == 0:
        return [words * (32 // bits)]
    most = words * 32 // bits if straddled else words * (32 // bits)
    return [most // _BLOCK * _BLOCK]


def _require_scales(parts: Parts, n: int, k: int, stated: int | str) -> None:
    require_float(parts.names["weight_scale"], parts.specs["weight_scale"])
    allowed: tuple[tuple[int, ...], ...]
    if isinstance(stated, int):
        allowed = ((n, group_count(stated, k)),)
    else:
        allowed = ((n, 1), (n,)) if stated == "per-channel" else ((1,), (), (1, 1))
    if parts.shape("weight_scale") not in allowed:
        groups = f"groups of {stated}" if isinstance(stated, int) else stated
        raise parts.wrong("weight_scale", f"{list(allowed[0])} for {groups} and [{n}, {k}]")


def _require_zero_points(parts: Parts, group: ModuleGroup, n: int, k: int) -> None:
    zeros, scales = parts.specs.get("weight_zero_point"), parts.shape("weight_scale")
    if zeros is None:
        return
    if not zero_points_are_packed(parts.specs):
        if zeros.shape != scales:
            raise parts.wrong("weight_zero_point", f"the shape of the scales, {list(scales)}")
        return
    bits = group.weights.bits
    straddled = is_straddled(parts.shape("weight_packed")[1], k, bits)
    expected = (word_count(n, bits, straddled=straddled), *(scales[1:] or (1,)))
    if zeros.shape != expected:
        raise parts.wrong("weight_zero_point", f"{list(expected)}")


def zero_points_are_packed(specs: Mapping[str, TensorSpec]) -> bool:
    """Return whether the zero-points among a module's parts are packed, as its codes are."""
    packed = "weight_packed" in specs and specs["weight_scale"].size > 1
    return packed and specs["weight_zero_point"].dtype == _INT32


def is_straddled(words: int, k: int, bits: int) -> bool:
    """Return whether K codes fill so many words without a gap."""
    return words == word_count(k, bits, straddled=True)
