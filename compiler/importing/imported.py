"""Turn what a checkpoint stores of its quantized linears into what passes put into a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.transform_inputs import InputTransform
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.stored import StoredActivations, StoredMatrix, StoredScheme
from castline.progress import Progress, SilentProgress


@dataclass(frozen=True, eq=False)
class Imported:
    """What a checkpoint stores quantized, by the names of its weights."""

    given: Mapping[str, GivenCodes] = field(default_factory=dict)
    """The codes, unread."""
    transforms: Mapping[str, InputTransform] = field(default_factory=dict)
    activations: Mapping[str, tuple[ActivationScheme, QuantParameters | None]] = field(
        default_factory=dict
    )
    float8_activations: Mapping[str, float] = field(default_factory=dict)
    """Static scales of what is quantized to E4M3."""
    by_value: Mapping[str, str] = field(default_factory=dict)
    """Weights of which only the values are carried -> why, as a clause."""
    float_activations: Mapping[str, str] = field(default_factory=dict)
    """Linears that read float where the checkpoint has codes -> why, as a clause."""

    def inexact_factors(self, float_type: ir.DataType) -> int:
        """Return how many numbers beside the codes a graph of that type rounds.

        They are factors of channels and static scales of activations.
        """
        arrays = [one.factor for one in self.transforms.values() if one.factor is not None]
        scales = [one.scale for _, one in self.activations.values() if one is not None]
        arrays.append(np.array([*scales, *self.float8_activations.values()]))
        return sum(_rounded(array, float_type) for array in arrays)


def _rounded(array: Array, float_type: ir.DataType) -> int:
    with np.errstate(over="ignore"):
        stored = array.astype(float_type.numpy()).astype(np.float64)
    return int(np.count_nonzero(stored != array.astype(np.float64)))


def imported(checkpoint: Checkpoint, progress: Progress | None = None) -> Imported:
    """Return what is carried over of a checkpoint under the names of the graph's weights.

    Only linears with a transform or a static scale are read, one at a time. Raises CheckpointError
    for what of them cannot be.
    """
    schemes = checkpoint.quantized
    ungrouped = {name: why for name, one in schemes.items() if (why := _no_codes(one))}
    carried = {name: one for name, one in schemes.items() if name not in ungrouped}
    transforms: dict[str, InputTransform] = {}
    scales: dict[str, tuple[float, int]] = {}
    read = [name for name, one in carried.items() if _has_more_than_codes(one)]
    if read:
        progress = progress or SilentProgress()
        with progress.stage("Reading stored input scales", len(read)) as advance:
            for name in read:
                stored = checkpoint.matrix(name)
                transform = InputTransform(stored.input_scale, stored.order)
                if stored.input_scale is not None or stored.order is not None:
                    transforms[name] = transform
                if stored.activation_scale is not None:
                    scales[name] = stored.activation_scale, stored.activation_zero_point
                advance(1)
    integer, float8, in_float = _activations(carried, scales)
    return Imported(
        given={name: _given(checkpoint, name, one) for name, one in carried.items()},
        transforms=transforms,
        activations=integer,
        float8_activations=float8,
        by_value=ungrouped | dict(checkpoint.dequantized),
        float_activations=in_float,
    )


def quantized_matrix(stored: StoredMatrix) -> QuantizedMatrix:
    """Return a stored matrix [N, K] as the graph has it, [K, N], its values untouched.

    Columns stay in the order of the codes, and an input scale is no part of it: `imported` gives
    both to the value that the linear reads.
    """
    parts = (stored.codes, stored.scales, stored.zero_points, stored.offsets)
    codes, scales, zero_points, offsets = (None if part is None else part.T for part in parts)
    assert codes is not None, "a stored matrix has codes"
    assert scales is not None, "a stored matrix has scales"
    return QuantizedMatrix(codes, scales, zero_points, offsets)


def _no_codes(scheme: StoredScheme) -> str | None:
    """Return why the graph has no form for the codes, or None where it has one."""
    group = scheme.group_size
    if isinstance(group, int) and (group < 16 or group.bit_count() != 1):
        return f"groups of {group} are none of a power of two from 16 on"
    if scheme.has_offsets and scheme.bits > 4:
        return f"codes of {scheme.bits} bits have offsets, which go with 4 bits"
    return None


def _has_more_than_codes(scheme: StoredScheme) -> bool:
    activations = scheme.activations
    static = activations is not None and not activations.dynamic
    return scheme.has_order or scheme.has_input_scale or static


def _given(checkpoint: Checkpoint, name: str, scheme: StoredScheme) -> GivenCodes:
    def matrices() -> Iterator[QuantizedMatrix]:
        return (quantized_matrix(stored) for stored in checkpoint.matrices(name))

    return GivenCodes(
        WeightScheme(scheme.bits, scheme.group_size, scheme.symmetric),
        matrices,
        has_offsets=scheme.has_offsets,
        float8=scheme.kind == "float8",
    )


def _activations(
    schemes: Mapping[str, StoredScheme], scales: Mapping[str, tuple[float, int]]
) -> tuple[
    dict[str, tuple[ActivationScheme, QuantParameters | None]], dict[str, float], dict[str, str]
]:
    """Return how what linears read is quantized: to integers, to E4M3, and what stays in float."""
    integer: dict[str, tuple[ActivationScheme, QuantParameters | None]] = {}
    float8: dict[str, float] = {}
    in_float: dict[str, str] = {}
    for name, scheme in schemes.items():
        activations = scheme.activations
        if activations is None:
            continue
        if activations.kind == "integer":
            parameters = QuantParameters(*scales[name]) if name in scales else None
            integer[name] = _activation_scheme(activations), parameters
        elif activations.dynamic:
            in_float[name] = "E4M3 by scales taken at run time has no operator yet"
        else:
            float8[name], _ = scales[name]
    return integer, float8, in_float


def _activation_scheme(stored: StoredActivations) -> ActivationScheme:
    return ActivationScheme(
        stored.bits,
        "per-token" if stored.per_token else "per-tensor",
        dynamic=stored.dynamic,
        symmetric=stored.symmetric,
    )
