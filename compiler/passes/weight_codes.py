"""Promise the codes of one matrix [K, N] with what turns them into weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.promised_matrix import PromisedParts
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import GroupSize, WeightScheme
from castline.compiler.quant.two_level import levels

_CODE_TYPES = {
    # Bits that codes are stored in and whether the grid is symmetric; fewer bits leave codes unused
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
    (8, True): ir.DataType.INT8,
    (8, False): ir.DataType.UINT8,
}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def code_type(scheme: WeightScheme) -> ir.DataType:
    """Return the type that codes are stored in: of 2 to 4 bits in 4, of 5 to 8 bits in 8."""
    return _CODE_TYPES[scheme.storage_bits, scheme.symmetric]


@dataclass(frozen=True)
class Form:
    """What one of a matrix's parts is called after it, and the type that it is stored in."""

    suffix: str
    dtype: ir.DataType


def forms(given: GivenCodes, float_type: ir.DataType) -> tuple[Form, ...]:
    """Return the parts in order: codes, scales, then zero-points or offsets if there are any.

    Offsets are float32 whatever the graph's type is: zero-points taken off there stay exact.
    """
    codes = ir.DataType.FLOAT8E4M3FN if given.float8 else code_type(given.scheme)
    parts = [Form("quantized", codes), Form("scale", float_type)]
    if not given.scheme.symmetric:
        parts.append(Form("zero_point", codes))
    if given.has_offsets:
        parts.append(Form("offset", ir.DataType.FLOAT))
    return tuple(parts)


def parts_of(matrix: QuantizedMatrix, wanted: Sequence[Form]) -> tuple[Array, ...]:
    """Return a matrix's parts in the order of `wanted`; floats are cast to its types.

    Scales that were not made for the graph's type may be infinite in it.
    """
    parts = (matrix.codes, matrix.scales, matrix.zero_points, matrix.offsets)
    present = [part for part in parts if part is not None]
    with np.errstate(over="ignore"):
        return tuple(
            part.astype(form.dtype.numpy(), copy=False) if form.dtype in _FLOATS else part
            for part, form in zip(present, wanted, strict=True)
        )


def promised_codes(
    name: str, sizes: tuple[int, int], given: GivenCodes, float_type: ir.DataType
) -> list[ir.Value]:
    """Return initializers of the parts of one matrix, called after `name`; `sizes` are K and N.

    Scales have the shape that DequantizeLinear takes: [G, N], [N] per channel or [] per tensor; a
    matrix with offsets has groups, of all K where it has one scale per channel.
    """
    group = given.scheme.group_for(sizes[0])
    scale_shape = _scale_shape(group, *sizes, in_groups=given.has_offsets)

    wanted = forms(given, float_type)

    def compute() -> tuple[Array, ...]:
        (matrix,) = given.matrices()
        codes, *rest = parts_of(matrix, wanted)
        return codes, *(part.reshape(scale_shape) for part in rest)

    promised = PromisedParts(compute, len(wanted))
    return [
        promised.promise(part, form.dtype, scale_shape if part else sizes, f"{name}_{form.suffix}")
        for part, form in enumerate(wanted)
    ]


def promised_levels(
    name: str, sizes: tuple[int, int], given: GivenCodes, float_type: ir.DataType
) -> list[ir.Value]:
    """Return initializers of a matrix whose scales have two levels; `sizes` are K and N.

    They are the codes int4 [K, N], the integer scales of groups int8 [G, N] and the scales of
    channels [N], of `float_type`, which holds them exactly.
    """
    k, n = sizes

    def compute() -> tuple[Array, ...]:
        (matrix,) = given.matrices()
        group_scale, scale = levels(matrix.scales)
        return matrix.codes, group_scale, scale.astype(float_type.numpy())

    promised = PromisedParts(compute, 3)
    codes, integers = code_type(given.scheme), ir.DataType.INT8
    groups = k // block_of(given.scheme.group_for(k), k)
    return [
        promised.promise(0, codes, sizes, f"{name}_quantized"),
        promised.promise(1, integers, (groups, n), f"{name}_group_scale"),
        promised.promise(2, float_type, (n,), f"{name}_scale"),
    ]


def block_of(group: GroupSize, k: int) -> int:
    """Return how many neighbours along K share a scale."""
    return group if isinstance(group, int) else k


def _scale_shape(group: GroupSize, k: int, n: int, *, in_groups: bool) -> tuple[int, ...]:
    if isinstance(group, int) or in_groups:
        return k // block_of(group, k), n
    return (n,) if group == "per-channel" else ()
