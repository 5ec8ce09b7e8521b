"""Promise weights in the layout that plugins read, packed when they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import add_initializer, shared_constant
from castline.compiler.passes.plugin_limits import FLOAT_TYPES
from castline.compiler.passes.promised_matrix import PromisedParts
from castline.compiler.quant.arrays import Array
from castline.plugins.packing import LAYOUT_VERSION, STRIP_ROWS, pack, pack_scales, packed_shape

_SIGNED_4, _UNSIGNED_4 = ir.DataType.INT4, ir.DataType.UINT4
_MIDDLE = 8
"""What is taken off a code of 0..15 to have one of -8..7."""


@dataclass(frozen=True)
class PluginMatrix:
    """Initializers of one packed weight [K, N], in the order that the op reads them."""

    values: tuple[ir.Value, ...]
    k: int
    n: int

    @property
    def float_type(self) -> ir.DataType:
        """The type of the scales of its channels, which is that of the product."""
        types = [value.dtype for value in self.values]
        return next(kind for kind in types if kind in FLOAT_TYPES)

    @property
    def attributes(self) -> dict[str, int]:
        """What every packed op says of its weight."""
        return {"k": self.k, "n": self.n, "layout_version": LAYOUT_VERSION}


def weight_only_matrix(graph: ir.Graph, stored: Sequence[ir.Value], block: int) -> PluginMatrix:
    """Pack INT4 or UINT4 codes [K, N], scales, and zero-points of their type or float offsets.

    Scales and zero-points are [G, N], [N] per channel or [] per tensor; there are K / block groups.
    """
    codes, scales, shifts = stored
    k, n = _sizes(codes)
    groups = k // block
    zero_points = shifts.dtype == codes.dtype

    def by_group(value: ir.Value) -> Array:
        return np.broadcast_to(_array(value), (groups, n)).T

    def compute() -> tuple[Array, ...]:
        shift = by_group(shifts)
        shift = signed(shift, codes) if zero_points else shift.astype(np.float32)
        packed = pack(signed(_array(codes), codes).T, 4)
        return packed, pack_scales(by_group(scales)), pack_scales(shift)

    scale_shape = (packed_shape(n, k, 4)[0], groups, STRIP_ROWS)
    forms = [
        (ir.DataType.INT8, packed_shape(n, k, 4)),
        (scales.dtype or ir.DataType.FLOAT16, scale_shape),
        (ir.DataType.INT8 if zero_points else ir.DataType.FLOAT, scale_shape),
    ]
    return PluginMatrix(_promised(graph, stored, compute, forms), k, n)


def integer_matrix(graph: ir.Graph, stored: Sequence[ir.Value], *, sums: bool) -> PluginMatrix:
    """Pack INT8 codes [K, N] with scales, or 4-bit ones with scales and zero-points.

    Scales and zero-points are [N], or [] for all. `sums` adds int32 sums of the weights over K.
    """
    codes, scales, *zero_points = stored
    k, n = _sizes(codes)
    bits = 4 if zero_points else 8

    def compute() -> tuple[Array, ...]:
        weights = _array(codes) if bits == 8 else signed(_array(codes), codes)
        zeros = [np.broadcast_to(signed(_array(zero), zero), n) for zero in zero_points]
        parts = [pack(weights.T, bits), np.broadcast_to(_array(scales), n), *zeros]
        if sums:
            total = weights.sum(axis=0, dtype=np.int32)
            parts.append(total - sum(k * zero.astype(np.int32) for zero in zeros))
        return tuple(parts)

    forms = [
        (ir.DataType.INT8, packed_shape(n, k, bits)),
        (scales.dtype or ir.DataType.FLOAT16, (n,)),
        *[(ir.DataType.INT8, (n,)) for _ in zero_points],
    ]
    if sums:
        forms.append((ir.DataType.INT32, (n,)))
    return PluginMatrix(_promised(graph, stored, compute, forms), k, n)


def grouped_matrix(graph: ir.Graph, stored: Sequence[ir.Value], *, sums: bool) -> PluginMatrix:
    """Pack INT4 codes [K, N] with INT8 scales [G, N] of groups and a scale [N] of each channel.

    `sums` adds int32 sums over K of codes times scales of groups.
    """
    codes, levels, scales = stored
    k, n = _sizes(codes)
    groups = _sizes(levels)[0]

    def compute() -> tuple[Array, ...]:
        weights, of_groups = signed(_array(codes), codes), _array(levels)
        parts = [pack(weights.T, 4), pack_scales(of_groups.T), _array(scales)]
        if sums:
            by_group = weights.reshape(groups, -1, n).sum(axis=1, dtype=np.int32)
            parts.append((by_group * of_groups).sum(axis=0, dtype=np.int32))
        return tuple(parts)

    forms = [
        (ir.DataType.INT8, packed_shape(n, k, 4)),
        (ir.DataType.INT8, (packed_shape(n, k, 4)[0], groups, STRIP_ROWS)),
        (scales.dtype or ir.DataType.FLOAT16, (n,)),
        *([(ir.DataType.INT32, (n,))] if sums else []),
    ]
    return PluginMatrix(_promised(graph, stored, compute, forms), k, n)


def no_bias(graph: ir.Graph, n: int, float_type: ir.DataType) -> ir.Value:
    """Return zeros [N], one initializer for all linears of that size."""
    zeros = np.zeros(n, float_type.numpy())
    return shared_constant(graph, f"no_bias_{float_type.name.lower()}_{n}", zeros)


def signed(codes: Array, stored: ir.Value) -> Array:
    """Return 4-bit codes as int8 -8..7, those of an unsigned type with 8 taken off.

    Of each byte only the low half counts.
    """
    low = codes.view(np.uint8) & np.uint8(15)
    if stored.dtype == _UNSIGNED_4:
        return low.view(np.int8) - np.int8(_MIDDLE)
    assert stored.dtype == _SIGNED_4, f"{stored.name} has codes of 4 bits"
    return (low ^ np.uint8(_MIDDLE)).view(np.int8) - np.int8(_MIDDLE)


def _promised(
    graph: ir.Graph,
    stored: Sequence[ir.Value],
    compute: Callable[[], tuple[Array, ...]],
    forms: Sequence[tuple[ir.DataType, tuple[int, ...]]],
) -> tuple[ir.Value, ...]:
    """Add an initializer for each form, called after what is stored; the last may be the sums."""
    names = [f"{value.name}_packed" for value in stored]
    if len(forms) > len(names):
        names.append(f"{stored[0].name}_sums")
    parts = PromisedParts(compute, len(forms))
    return tuple(
        add_initializer(graph, parts.promise(part, dtype, shape, name))
        for part, (name, (dtype, shape)) in enumerate(zip(names, forms, strict=True))
    )


def _sizes(codes: ir.Value) -> tuple[int, int]:
    assert codes.shape is not None, "initializers have shapes"
    k, n = (int(size) for size in codes.shape.numpy())
    return k, n


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None, f"{value.name} is an initializer"
    return value.const_value.numpy()
