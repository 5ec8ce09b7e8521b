"""Unpack what compressed-tensors stores of one linear.

The library counts codes from below zero, and packs a code, or a zero-point, plus 2^(bits - 1). So
of codes with zero-points the unsigned ones that a stored matrix has are those that are packed, and
int8 ones become unsigned by 2^(bits - 1) more in both, which leaves their difference as it is.

Source: compressors/pack_quantized and quantization/lifecycle/forward.py of compressed-tensors.
"""

from __future__ import annotations

import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.compressed_tensors_config import WeightArguments
from castline.exporters.readers.compressed_tensors_layout import (
    is_straddled,
    zero_points_are_packed,
)
from castline.exporters.readers.packed_words import unpacked
from castline.exporters.readers.stored import Read, StoredLinear, StoredMatrix
from castline.exporters.readers.stored_groups import order_of_groups, repeated
from castline.exporters.readers.stored_parts import positive_number, require_finite
from castline.exporters.readers.tensors import Array, TensorSpec

_ADVICE = "Get the checkpoint again."


def matrix_of_parts(linear: StoredLinear, weights: WeightArguments, read: Read) -> StoredMatrix:
    """Return the matrix that a linear's parts make, quantized as `weights` says.

    Raises CheckpointError that names the part which holds what cannot be.
    """
    parts = {part: read(name) for part, name in linear.parts.items()}
    _require_shape(linear, parts)
    scales = require_finite(linear.parts["weight_scale"], parts["weight_scale"])
    order = _order(linear, weights, parts)
    codes = _codes(linear, parts)
    return StoredMatrix(
        codes if order is None else np.ascontiguousarray(codes[:, order]),
        _by_group(scales, weights, linear.spec),
        _zero_points(linear, weights, parts),
        order=order,
        activation_scale=_activation_scale(linear, parts),
        activation_zero_point=_activation_zero_point(linear, parts),
    )


def _require_shape(linear: StoredLinear, parts: dict[str, Array]) -> None:
    """Compare the shape that follows from the parts' shapes with the one that is stored."""
    if "weight_shape" not in parts:
        return
    stored = tuple(parts["weight_shape"].reshape(-1).tolist())
    if stored != linear.spec.shape:
        raise CheckpointError(
            f"{linear.parts['weight_shape']} says {list(stored)}, and by the configuration's "
            f"num_bits and group_size the packed codes are {list(linear.spec.shape)}. {_ADVICE}"
        )


def _codes(linear: StoredLinear, parts: dict[str, Array]) -> Array:
    """Return the codes [N, K], their columns in the order in which they are stored."""
    scheme, k = linear.scheme, linear.spec.shape[1]
    middle = 1 << (scheme.bits - 1)
    if "weight_packed" in parts:
        words = parts["weight_packed"]
        straddled = is_straddled(words.shape[1], k, scheme.bits)
        codes = unpacked(words, scheme.bits, k, straddled=straddled)
        # 8-bit codes wrap around here, to what they were before the library added to them.
        return (codes - np.uint8(middle)).view(np.int8) if scheme.symmetric else codes
    name, codes = linear.parts["weight"], parts["weight"]
    if scheme.kind == "float8":
        return require_finite(name, codes)
    _require_range(name, codes, middle)
    return codes if scheme.symmetric else codes.view(np.uint8) + np.uint8(middle)


def _zero_points(
    linear: StoredLinear, weights: WeightArguments, parts: dict[str, Array]
) -> Array | None:
    """Return zero-points uint8 in the shape of the scales, None where codes have none."""
    if "weight_zero_point" not in parts:
        return None
    name, stored = linear.parts["weight_zero_point"], parts["weight_zero_point"]
    if linear.scheme.symmetric:
        _require_no_zero_point(name, stored)
        return None
    middle = 1 << (linear.scheme.bits - 1)
    if zero_points_are_packed({part: _spec(array) for part, array in parts.items()}):
        n, k = linear.spec.shape
        straddled = is_straddled(parts["weight_packed"].shape[1], k, linear.scheme.bits)
        by_group = np.ascontiguousarray(stored.T)
        zeros = unpacked(by_group, linear.scheme.bits, n, straddled=straddled).T
    else:
        _require_range(name, stored, middle)
        zeros = stored.astype(np.int8).view(np.uint8) + np.uint8(middle)
    return np.ascontiguousarray(_by_group(zeros, weights, linear.spec))


def _order(linear: StoredLinear, weights: WeightArguments, parts: dict[str, Array]) -> Array | None:
    """Return which column of the input each column multiplies, None without act-order."""
    if "weight_g_idx" not in parts:
        return None
    name, groups, stated = linear.parts["weight_g_idx"], parts["weight_g_idx"], weights.group_size
    columns = np.arange(linear.spec.shape[1])
    in_place = bool((groups == -1).any())  # the library's sign that columns were not moved
    if isinstance(stated, int) and not in_place:
        columns = order_of_groups(name, groups, stated)
    if linear.scheme.has_order:
        return columns
    if (np.diff(columns) != 1).any():
        raise CheckpointError(
            f"{name} reorders columns, and the configuration's actorder is not group. {_ADVICE}"
        )
    return None


def _activation_scale(linear: StoredLinear, parts: dict[str, Array]) -> float | None:
    if "input_scale" not in parts:
        return None
    return positive_number(linear.parts["input_scale"], parts["input_scale"])


def _activation_zero_point(linear: StoredLinear, parts: dict[str, Array]) -> int:
    """Return the zero-point of unsigned activations, 0 of symmetric ones."""
    activations = linear.scheme.activations
    if "input_zero_point" not in parts or activations is None:
        return 0
    name, stored = linear.parts["input_zero_point"], parts["input_zero_point"]
    if activations.symmetric:
        _require_no_zero_point(name, stored)
        return 0
    middle = 1 << (activations.bits - 1)
    _require_range(name, stored, middle)
    return int(stored.reshape(-1)[0]) + middle


def _by_group(values: Array, weights: WeightArguments, spec: TensorSpec) -> Array:
    """Return scales or zero-points in the shape that a stored matrix has them in."""
    n, k = spec.shape
    if weights.group_size == "per-tensor":
        return values.reshape(1, 1)
    if weights.group_size == "per-channel":
        return values.reshape(n, 1)
    return repeated(values, weights.group_size, k)


def _require_range(name: str, signed: Array, middle: int) -> None:
    out = int(np.count_nonzero((signed < -middle) | (signed > middle - 1)))
    if out:
        raise CheckpointError(
            f"{name} holds {out} of {signed.size} values out of range, expected "
            f"{-middle} to {middle - 1}. {_ADVICE}"
        )


def _require_no_zero_point(name: str, stored: Array) -> None:
    if count := int(np.count_nonzero(stored)):
        raise CheckpointError(
            f"{name} holds {count} zero-points that are not 0, and the configuration says "
            f"symmetric. {_ADVICE}"
        )


def _spec(array: Array) -> TensorSpec:
    return TensorSpec(array.shape, array.dtype)
