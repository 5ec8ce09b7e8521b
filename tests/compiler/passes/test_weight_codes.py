"""The parts of a matrix are promised in the shapes and types that operators take."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.weight_codes import (
    block_of,
    code_type,
    promised_codes,
    promised_levels,
)
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import GroupSize, WeightScheme

SIZES = (64, 3)


def given(group: GroupSize, *, symmetric: bool = True, offsets: bool = False) -> GivenCodes:
    groups = {"per-channel": (1, 3), "per-tensor": (1, 1)}.get(str(group), (2, 3))
    scales = np.arange(1, 1 + np.prod(groups), dtype=np.float16).reshape(groups)
    codes = np.arange(192).reshape(SIZES) % 16 - (8 if symmetric else 0)
    zeros = None if symmetric else np.full(groups, 5, np.uint8)
    added = np.full(groups, 0.1) if offsets else None
    codes = codes.astype(np.int8 if symmetric else np.uint8)
    matrix = QuantizedMatrix(codes, scales, zeros, added)
    return GivenCodes(WeightScheme(4, group, symmetric), lambda: (matrix,), has_offsets=offsets)


@pytest.mark.parametrize(
    ("group", "shape"), [(32, (2, 3)), ("per-channel", (3,)), ("per-tensor", ())]
)
def test_scales_have_the_shape_that_dequantize_linear_takes(
    group: GroupSize, shape: tuple[int, ...]
) -> None:
    parts = promised_codes("w", SIZES, given(group, symmetric=False), ir.DataType.FLOAT)
    assert [part.name for part in parts] == ["w_quantized", "w_scale", "w_zero_point"]
    assert [part.dtype for part in parts] == [ir.DataType.UINT4, ir.DataType.FLOAT, 21]
    assert [part.shape for part in parts] == [SIZES, shape, shape]
    for part in parts:
        assert part.const_value is not None
        assert part.const_value.numpy().shape == part.shape


@pytest.mark.parametrize(("group", "groups"), [(32, 2), ("per-channel", 1)])
def test_a_matrix_with_offsets_has_groups_and_offsets_in_float32(
    group: GroupSize, groups: int
) -> None:
    parts = promised_codes("w", SIZES, given(group, offsets=True), ir.DataType.FLOAT16)
    assert [part.name for part in parts] == ["w_quantized", "w_scale", "w_offset"]
    assert [part.dtype for part in parts] == [
        ir.DataType.INT4, ir.DataType.FLOAT16, ir.DataType.FLOAT,
    ]  # fmt: skip
    assert [part.shape for part in parts[1:]] == [(groups, 3)] * 2
    assert parts[2].const_value is not None
    np.testing.assert_array_equal(parts[2].const_value.numpy(), np.full((groups, 3), 0.1, "f4"))


@pytest.mark.parametrize(
    "dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16], ids=str
)
def test_scales_are_cast_and_not_read_as_other_bits(dtype: ir.DataType) -> None:
    _, scale = promised_codes("w", SIZES, given(32), dtype)
    assert scale.const_value is not None
    np.testing.assert_array_equal(
        scale.const_value.numpy().astype(np.float32), [[1, 2, 3], [4, 5, 6]]
    )


def test_e4m3_numbers_stay_what_they_are() -> None:
    codes = np.linspace(-400, 400, 192).reshape(SIZES).astype(ml_dtypes.float8_e4m3fn)
    matrix = QuantizedMatrix(codes, np.ones((1, 1), np.float32), None)
    scheme = WeightScheme(8, "per-tensor", True)
    float8 = GivenCodes(scheme, lambda: (matrix,), float8=True)
    parts = promised_codes("w", SIZES, float8, ir.DataType.FLOAT)
    assert parts[0].dtype == ir.DataType.FLOAT8E4M3FN
    assert parts[0].const_value is not None
    np.testing.assert_array_equal(parts[0].const_value.numpy(), codes)


def test_codes_of_fewer_bits_are_stored_in_four_or_eight() -> None:
    assert code_type(WeightScheme(3, 32, True)) == ir.DataType.INT4
    assert code_type(WeightScheme(2, 32, False)) == ir.DataType.UINT4
    assert code_type(WeightScheme(5, 32, False)) == ir.DataType.UINT8
    assert block_of(32, 96) == 32
    assert block_of("per-channel", 96) == 96


@pytest.mark.parametrize(
    "dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16], ids=str
)
def test_of_two_levels_integers_and_scales_of_channels_are_stored(dtype: ir.DataType) -> None:
    codes = np.zeros(SIZES, np.int8)
    scales = np.array([[16, 0.9375, 1], [5, 0.625, 16]], np.float32)
    scheme = WeightScheme(4, 32, True, two_level=True)
    parts = promised_levels(
        "w", SIZES, GivenCodes(scheme, lambda: (QuantizedMatrix(codes, scales, None),)), dtype
    )
    assert [part.name for part in parts] == ["w_quantized", "w_group_scale", "w_scale"]
    assert [part.dtype for part in parts] == [ir.DataType.INT4, ir.DataType.INT8, dtype]
    integers, scale = (part.const_value.numpy() for part in parts[1:] if part.const_value)
    np.testing.assert_array_equal(integers, [[16, 15, 1], [5, 10, 16]])
    np.testing.assert_array_equal(scale.astype(float), [1, 0.0625, 1])
