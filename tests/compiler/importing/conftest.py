"""Make checkpoints in memory that store the linears of a tiny decoder quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.targets.catalogue import target_named
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.tensorrt.lowering import lower_for_plugins
from castline.compiler.targets.tensorrt.plugin_library import PluginUse
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.stored import StoredActivations, StoredMatrix, StoredScheme
from castline.exporters.readers.tensors import TensorSpec

Stored = tuple[StoredScheme, StoredMatrix]


@dataclass(frozen=True)
class MemoryCodes:
    """Matrices that are stored, by the names of their weights."""

    stored: Mapping[str, Stored]
    dequantized: Mapping[str, str] = field(default_factory=dict)

    @property
    def schemes(self) -> Mapping[str, StoredScheme]:
        return {name: scheme for name, (scheme, _) in self.stored.items()}

    def matrices(self, name: str) -> Iterator[StoredMatrix]:
        yield self.stored[name][1]


@dataclass(frozen=True)
class MemoryReader:
    """Tensors that are not in the file of the checkpoint they are given to."""

    arrays: Mapping[str, np.ndarray]
    files: tuple[Path, ...]

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        return {name: TensorSpec(a.shape, a.dtype) for name, a in self.arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def file_of(self, name: str) -> Path:  # noqa: ARG002
        return self.files[0]


def with_zero_points(weight: np.ndarray) -> Stored:
    """Store a weight [N, K] as AWQ does: 4 bits, groups of 32, zero-points, float16 scales."""
    grouped = weight.reshape(len(weight), -1, 32)
    least, most = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
    scales = ((most - least) / 15).astype(np.float16)
    zeros = np.clip(np.rint(-least / scales), 0, 15).astype(np.uint8)
    codes = np.rint(grouped / scales[..., None]) + zeros[..., None]
    codes = np.clip(codes, 0, 15).astype(np.uint8).reshape(weight.shape)
    return StoredScheme("integer", 4, 32, symmetric=False), StoredMatrix(codes, scales, zeros)


def with_offsets(weight: np.ndarray) -> Stored:
    """Store a weight as GGUF's Q4_1 does, by signed codes."""
    _, matrix = with_zero_points(weight)
    assert matrix.zero_points is not None
    scales = matrix.scales.astype(np.float32)
    offsets = scales * (8 - matrix.zero_points.astype(np.float32)) + np.float32(1e-3)
    codes = (matrix.codes.astype(np.int16) - 8).astype(np.int8)
    scheme = StoredScheme("integer", 4, 32, symmetric=True, has_offsets=True)
    return scheme, StoredMatrix(codes, matrix.scales, offsets=offsets)


def in_order(weight: np.ndarray) -> Stored:
    """Store a weight as GPTQ does with act-order: columns are put into groups of others."""
    order = np.random.default_rng(weight.shape[1]).permutation(weight.shape[1])
    scheme, matrix = with_zero_points(weight[:, order])
    return replace(scheme, has_order=True), replace(matrix, order=order)


def with_input_scale(weight: np.ndarray) -> Stored:
    """Store a weight as ModelOpt does with pre_quant_scale."""
    factor = np.linspace(0.5, 2, weight.shape[1]).astype(np.float16)
    scheme, matrix = with_zero_points(weight / factor)
    return replace(scheme, has_input_scale=True), replace(matrix, input_scale=factor)


def per_channel(weight: np.ndarray, activations: StoredActivations | None = None) -> Stored:
    """Store a weight as INT8 with a float16 scale a channel; static activations have scale 1/20."""
    scales = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float16)
    codes = np.clip(np.rint(weight / scales), -127, 127).astype(np.int8)
    scheme = StoredScheme("integer", 8, "per-channel", symmetric=True, activations=activations)
    static = activations is not None and not activations.dynamic
    return scheme, StoredMatrix(codes, scales, activation_scale=0.05 if static else None)


def int8_dynamic(weight: np.ndarray) -> Stored:
    return per_channel(weight, StoredActivations("integer", 8, True, True, True))


def int8_static(weight: np.ndarray) -> Stored:
    return per_channel(weight, StoredActivations("integer", 8, False, False, True))


def float8_static(weight: np.ndarray) -> Stored:
    """Store a weight as E4M3 with one scale, and the activations' scale."""
    scale = np.float16(np.abs(weight).max() / 448).reshape(1, 1)
    codes = (weight / scale.astype(np.float32)).astype(ml_dtypes.float8_e4m3fn)
    activations = StoredActivations("float8", 8, False, False, True)
    scheme = StoredScheme("float8", 8, "per-tensor", symmetric=True, activations=activations)
    return scheme, StoredMatrix(codes, scale, activation_scale=1 / 64)


def float8_dynamic(weight: np.ndarray) -> Stored:
    scheme, matrix = float8_static(weight)
    activations = StoredActivations("float8", 8, True, True, True)
    return replace(scheme, activations=activations), replace(matrix, activation_scale=None)


WAYS: dict[str, Callable[[np.ndarray], Stored]] = {
    "zero-points": with_zero_points,
    "offsets": with_offsets,
    "act-order": in_order,
    "input scale": with_input_scale,
    "int8": per_channel,
    "int8 dynamic": int8_dynamic,
    "int8 static": int8_static,
    "float8 static": float8_static,
    "float8 dynamic": float8_dynamic,
}


@pytest.fixture(scope="session")
def ways() -> tuple[str, ...]:
    """Return the ways to store a weight that `stored_in` knows."""
    return tuple(WAYS)


@pytest.fixture(scope="session")
def stored_in(tiny: Callable[[str], Any]) -> Callable[..., Checkpoint]:
    """Return the tiny Llama's checkpoint with its linears, the head too, stored in one way."""
    made: dict[str, Checkpoint] = {}

    def of(way: str) -> Checkpoint:
        if way not in made:
            plain = tiny("llama").checkpoint
            arrays = {name: plain.read(name) for name in plain.tensors}
            linears = [name for name in arrays if name.endswith(("proj.weight", "head.weight"))]
            stored = {name: WAYS[way](arrays[name]) for name in linears}
            weights = {name: matrix.weight() for name, (_, matrix) in stored.items()}
            reader = MemoryReader(arrays | weights, plain.files)
            made[way] = replace(plain, reader=reader, codes=MemoryCodes(stored))
        return made[way]

    return of


@pytest.fixture(scope="session")
def lower() -> Callable[[ir.Model, str], None]:
    """Return what lowers a graph for a target; "plugins" is tensorrt-rtx, which else has none."""

    def lowered(model: ir.Model, target: str) -> None:
        if target == "plugins":
            lower_for_plugins(model)
        else:
            plugins: PluginUse = "never" if target == "tensorrt-rtx" else "auto"
            target_named(target, TargetOptions(plugins=plugins)).lower(model, 512)

    return lowered
