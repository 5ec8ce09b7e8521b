"""Say how a checkpoint stores the quantized matrices of its linears, and what it stores of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from castline.exporters.readers.tensors import Array, TensorSpec

Read: TypeAlias = Callable[[str], Array]
"""Returns a stored tensor by the name that the file has for it."""


@dataclass(frozen=True)
class StoredActivations:
    """How what a linear reads is quantized before it is multiplied."""

    kind: Literal["integer", "float8"]
    bits: int
    per_token: bool
    """Whether each token has a scale of its own; otherwise all share one."""
    dynamic: bool
    """Whether scales are those of the values at run time; otherwise one is stored."""
    symmetric: bool


@dataclass(frozen=True)
class StoredScheme:
    """How one matrix [N, K] is stored: N outputs, K inputs."""

    kind: Literal["integer", "float8"]
    bits: int
    """2 to 8; 8 for float8, which is E4M3 without infinities."""
    group_size: int | Literal["per-channel", "per-tensor"]
    """Neighbours along K that share a scale, once `StoredMatrix.order` is followed; divides K."""
    symmetric: bool
    """True: integer codes are signed and there are no zero-points. False: unsigned, with them."""
    has_offsets: bool = False
    """Whether float offsets are added to the scaled codes; such codes are signed."""
    has_order: bool = False
    """Whether columns were reordered so that groups are neighbours (act-order)."""
    has_input_scale: bool = False
    """Whether what is read is multiplied channel by channel first (pre_quant_scale)."""
    activations: StoredActivations | None = None
    """None: what is read stays in float."""


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """What is stored of one linear, unpacked. Its weight [N, K] is (codes - zero_points) * scales
    + offsets group by group, its columns put back by `order`, then times `input_scale`."""

    codes: Array
    """[N, K]: int8 where symmetric, uint8 otherwise, float8_e4m3fn for float8."""
    scales: Array
    """[N, K / group], [N, 1] per channel, [1, 1] per tensor; in the type they are stored in."""
    zero_points: Array | None = None
    """uint8, in the shape of the scales."""
    offsets: Array | None = None
    """Float, in the shape of the scales."""
    order: Array | None = None
    """int64 [K]: the channel of the input that each column of the codes multiplies."""
    input_scale: Array | None = None
    """float [K]: what each channel of the input is multiplied by before it is quantized."""
    activation_scale: float | None = None
    """Of static activations."""
    activation_zero_point: int = 0
    """Of static activations with zero-points, unsigned as their codes: one that is stored for
    signed codes is this less 2 ** (bits - 1). 0 where the activations are symmetric."""

    def weight(self) -> Array:
        """Return the weight that all of it stands for, float32 [N, K]."""
        n, k = self.codes.shape
        scales = self.scales.astype(np.float32)
        grouped = self.codes.astype(np.float32).reshape(n, -1, max(1, k // scales.shape[1]))
        if self.zero_points is not None:
            grouped -= self.zero_points.astype(np.float32)[..., None]
        grouped *= scales[..., None]
        if self.offsets is not None:
            grouped += self.offsets.astype(np.float32)[..., None]
        ordered = grouped.reshape(n, k)
        weight = ordered
        if self.order is not None:
            weight = np.empty_like(ordered)
            weight[:, self.order] = ordered
        if self.input_scale is not None:
            weight = weight * self.input_scale.astype(np.float32)
        return weight


@dataclass(frozen=True)
class StoredLinear:
    """One quantized linear of a checkpoint, known without reading it."""

    scheme: StoredScheme
    spec: TensorSpec
    """Shape [N, K] and float type of the weight that it stands for."""
    parts: Mapping[str, str]
    """What a format calls a part, such as "qweight" -> the name of the stored tensor."""


class StoredFormat(Protocol):
    """One way of storing quantized linears, as its quantization_config describes it."""

    @property
    def name(self) -> str:
        """What its users call it, such as "AWQ"."""
        ...

    def linears(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, StoredLinear]:
        """Return what is quantized among the stored tensors: "...q_proj.weight" -> how.

        Nothing is read. Raises one CheckpointError that names every tensor which contradicts the
        configuration or another tensor: absent parts, lengths, types, groups.
        """
        ...

    def set_aside(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the stored tensors that no model has a place for, and why each is left out."""
        ...

    def matrix(self, name: str, linear: StoredLinear, read: Read) -> StoredMatrix:
        """Return one linear's codes, unpacked. Raises CheckpointError that names the tensor which
        holds what cannot be: scales that are not finite, groups that are no permutation."""
        ...
