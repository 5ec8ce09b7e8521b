"""Read the linears of a checkpoint that NVIDIA ModelOpt quantized and exported.

    quant_algo                 weight                        weight_scale     besides
    W4A16_AWQ                  uint8 [N / 2, K]              [N, K / group]   pre_quant_scale [K]
    W8A16                      int8 [N, K]                   [N]
    W8A8_SQ_PER_CHANNEL        int8 [N, K]                   [N]              input_scale,
                                                                              pre_quant_scale [K]
    FP8                        float8_e4m3fn [N, K]          one, or [N]      input_scale
    FP8_PER_CHANNEL_PER_TOKEN  float8_e4m3fn [N, K]          [N]

A byte of W4A16_AWQ holds row 2 n in its low half and row 2 n + 1 in its high half, each in two's
complement. What a linear reads is multiplied by pre_quant_scale before it is quantized; where
ModelOpt folded that into a norm, it is absent.

Source: modelopt/torch/export/quant_utils.py and unified_export_hf.py of ModelOpt 0.47.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.modelopt_config import (
    ALGORITHMS,
    Algorithm,
    Settings,
    read_settings,
    require_same,
)
from castline.exporters.readers.stored import Read, StoredLinear, StoredMatrix, StoredScheme
from castline.exporters.readers.stored_parts import (
    FLOAT8,
    cache_scales,
    left_in_float,
    module_of,
    positive_number,
    refuse_contradictions,
    require_finite,
    require_float,
    unclaimed_codes,
)
from castline.exporters.readers.tensors import Array, TensorSpec, named

_WEIGHT, _SCALE = ".weight", ".weight_scale"
_PARTS = ("weight", "weight_scale", "input_scale", "pre_quant_scale")
_CODES = {4: np.dtype(np.uint8), 8: np.dtype(np.int8)}
_MIDDLE = 8  # of the 16 codes of a half byte
Group = int | Literal["per-channel", "per-tensor"]


@dataclass(frozen=True)
class ModelOpt:
    """ModelOpt's format with one checkpoint's settings."""

    settings: Settings
    name: str = "ModelOpt"

    @staticmethod
    def of(fields: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> ModelOpt:
        """Return the format that hf_quant_config.json or a quantization_config describes.

        `beside` is the other of the two, where a folder has both. Raises CheckpointError for an
        unsupported quant_algo, and where the two differ.
        """
        settings = read_settings(fields)
        if beside is not None:
            require_same(settings, read_settings(beside))
        return ModelOpt(settings)

    def linears(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, StoredLinear]:
        """Return what is quantized among the stored tensors; nothing is read.

        Raises one CheckpointError that names every tensor which contradicts the configuration.
        """
        found: dict[str, StoredLinear] = {}
        problems: list[str] = []
        for module in [module_of(name) for name in tensors if name.endswith(_SCALE)]:
            try:
                found[module + _WEIGHT] = self._linear(module, tensors)
            except CheckpointError as error:
                problems.append(str(error))
        if not problems:
            parts = {name for linear in found.values() for name in linear.parts.values()}
            problems += unclaimed_codes(tensors, parts)
            problems += left_in_float(tensors, found, self._is_quantized)
            problems += self._absent_layers(found)
        refuse_contradictions(self.name, problems)
        return found

    def set_aside(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the stored scales of a quantized key-value cache, and why they are left out."""
        return cache_scales(tensors)

    def matrix(self, name: str, linear: StoredLinear, read: Read) -> StoredMatrix:  # noqa: ARG002
        """Return one linear's codes, unpacked. Raises CheckpointError for what cannot be in it."""
        parts = {part: read(stored) for part, stored in linear.parts.items()}
        for part in ("weight_scale", "pre_quant_scale"):
            if part in parts:
                require_finite(linear.parts[part], parts[part])
        scales, codes = parts["weight_scale"], parts["weight"]
        if linear.scheme.kind == "float8":
            require_finite(linear.parts["weight"], codes)
        if linear.scheme.bits == 4:
            codes = _rows_of_halves(codes)
        else:
            scales = scales.reshape(-1, 1)  # one for each row, or one of all
        channels = parts.get("pre_quant_scale")
        static = parts.get("input_scale")
        return StoredMatrix(
            codes,
            scales,
            input_scale=None if channels is None else channels.reshape(-1),
            activation_scale=(
                None if static is None else positive_number(linear.parts["input_scale"], static)
            ),
        )

    def _is_quantized(self, module: str) -> bool:
        return self.settings.of_module(module) is not None

    def _absent_layers(self, found: Mapping[str, StoredLinear]) -> list[str]:
        return [
            f"{module} is among quantized_layers, and {module}{_SCALE} is absent"
            for module in self.settings.layers
            if module + _WEIGHT not in found
        ]

    def _linear(self, module: str, tensors: Mapping[str, TensorSpec]) -> StoredLinear:
        layer = self.settings.of_module(module)
        if layer is None:
            raise CheckpointError(
                f"{module} is stored quantized, and the configuration excludes it"
            )
        names = {part: f"{module}.{part}" for part in _PARTS if f"{module}.{part}" in tensors}
        algorithm = ALGORITHMS[layer.algorithm]
        _require_parts(module, names, algorithm, tensors)
        n, k = tensors[names["weight"]].shape
        n *= 2 if algorithm.bits == 4 else 1
        scale = tensors[names["weight_scale"]]
        _require_input(names, tensors, k)
        scheme = StoredScheme(
            algorithm.kind,
            algorithm.bits,
            _group(names["weight_scale"], scale, (n, k), algorithm, layer.group_size),
            symmetric=True,
            has_input_scale="pre_quant_scale" in names,
            activations=algorithm.activations,
        )
        return StoredLinear(scheme, TensorSpec((n, k), scale.dtype), names)


def _require_parts(
    module: str,
    names: Mapping[str, str],
    algorithm: Algorithm,
    tensors: Mapping[str, TensorSpec],
) -> None:
    required = ["weight", "weight_scale"]
    required += ["input_scale"] if _is_static(algorithm) else []
    absent = [f"{module}.{part}" for part in required if part not in names]
    if absent:
        raise CheckpointError(f"{named(absent)} is absent")
    second = f"{module}.weight_scale_2"
    surplus = [second] if second in tensors else []
    surplus += [] if _is_static(algorithm) else [names[p] for p in ("input_scale",) if p in names]
    if surplus:
        raise CheckpointError(f"{named(surplus)} is stored, which the configuration has no use for")
    weight = tensors[names["weight"]]
    expected = FLOAT8 if algorithm.kind == "float8" else _CODES[algorithm.bits]
    if weight.dtype != expected or len(weight.shape) != 2:
        raise CheckpointError(
            f"{names['weight']} is {weight.dtype} {list(weight.shape)}, expected two dimensions of "
            f"{expected}"
        )


def _is_static(algorithm: Algorithm) -> bool:
    return algorithm.activations is not None and not algorithm.activations.dynamic


def _require_input(names: Mapping[str, str], tensors: Mapping[str, TensorSpec], k: int) -> None:
    """Check what is applied to what a linear reads: a scale of K channels, and one of all."""
    for part, size in (("pre_quant_scale", k), ("input_scale", 1)):
        if part not in names:
            continue
        spec = tensors[names[part]]
        require_float(names[part], spec)
        if spec.size != size:
            raise CheckpointError(f"{names[part]} is {list(spec.shape)}, expected {size} in all")


def _group(
    name: str, scale: TensorSpec, shape: tuple[int, int], algorithm: Algorithm, stated: int | None
) -> Group:
    """Return what shares a scale, which is `scale` of a weight of the shape [N, K]."""
    require_float(name, scale)
    n, k = shape
    if algorithm.bits == 8:
        if algorithm.kind == "float8" and scale.size == 1:
            return "per-tensor"
        if scale.shape in ((n,), (n, 1)):
            return "per-channel"
        raise CheckpointError(f"{name} is {list(scale.shape)}, expected [{n}] beside [{n}, {k}]")
    groups = scale.shape[1] if len(scale.shape) == 2 else 0
    size = k // groups if groups and k % groups == 0 else 0
    if scale.shape[:1] != (n,) or not size or (stated or size) != size:
        groups_said = f"groups of {stated}" if stated else "groups that divide K"
        raise CheckpointError(
            f"{name} is {list(scale.shape)}, expected [{n}, K / group] for {groups_said} and "
            f"[{n}, {k}]"
        )
    return size


def _rows_of_halves(packed: Array) -> Array:
    """Return int8 [N, K] from uint8 [N / 2, K], two rows in each."""
    halves = np.stack([packed & 15, packed >> 4], axis=1)
    rows = halves.reshape(-1, packed.shape[1])
    # Of two's complement: 8 to 15 stand for -8 to -1.
    signed: Array = (rows ^ _MIDDLE).view(np.int8) - np.int8(_MIDDLE)
    return signed
