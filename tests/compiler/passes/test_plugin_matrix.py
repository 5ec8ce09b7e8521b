"""Weights are packed when they are written, and stand for what they stood for."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.plugin_matrix import (
    integer_matrix,
    no_bias,
    signed,
    weight_only_matrix,
)
from castline.plugins.packing import unpack, unpack_scales

RANDOM = np.random.default_rng(0)
K, N = 96, 20
RANGES = {ml_dtypes.int4: (-8, 8), ml_dtypes.uint4: (0, 16)}


def graph() -> ir.Graph:
    return ir.Graph([], [], nodes=[])


def value(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    return ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def codes(kind: type, *shape: int) -> np.ndarray:
    return RANDOM.integers(*RANGES[kind], shape).astype(kind)


def arrays(values: tuple[ir.Value, ...]) -> list[np.ndarray]:
    found = []
    for each in values:
        assert each.const_value is not None
        array = each.const_value.numpy()
        assert (array.shape, ir.DataType.from_numpy(array.dtype)) == (
            tuple(each.const_value.shape.numpy()),
            each.dtype,
        )
        found.append(array)
    return found


@pytest.mark.parametrize("scale_shape", [(3, N), (N,), ()], ids=["groups", "channels", "one"])
def test_unsigned_codes_and_zero_points_move_together(scale_shape: tuple[int, ...]) -> None:
    weights, zeros = codes(ml_dtypes.uint4, K, N), codes(ml_dtypes.uint4, *scale_shape)
    scales = RANDOM.uniform(0.1, 1, scale_shape).astype(np.float16)
    block = K // (3 if len(scale_shape) == 2 else 1)
    stored = [value("w", weights), value("s", scales), value("z", zeros)]
    matrix = weight_only_matrix(graph(), stored, block)
    assert matrix.attributes == {"k": K, "n": N, "layout_version": 1}
    packed, packed_scales, packed_zeros = arrays(matrix.values)
    by_group = (K // block, N)
    np.testing.assert_array_equal(
        unpack_scales(packed_scales, N).T, np.broadcast_to(scales, by_group)
    )
    steps = unpack(packed, N, K, 4).T - unpack_scales(packed_zeros, N).T.repeat(block, axis=0)
    each = np.broadcast_to(zeros.astype(np.int8), by_group).repeat(block, axis=0)
    np.testing.assert_array_equal(steps, weights.astype(np.int8) - each)


def test_offsets_stay_float32() -> None:
    weights, scales = codes(ml_dtypes.int4, K, N), np.ones((3, N), np.float16)
    offsets = RANDOM.standard_normal((3, N)).astype(np.float32)
    stored = [value("w", weights), value("s", scales), value("o", offsets)]
    packed, _, packed_offsets = arrays(weight_only_matrix(graph(), stored, 32).values)
    np.testing.assert_array_equal(unpack(packed, N, K, 4).T, weights.astype(np.int8))
    np.testing.assert_array_equal(unpack_scales(packed_offsets, N).T, offsets)
    assert packed_offsets.dtype == np.float32


@pytest.mark.parametrize("kind", list(RANGES), ids=["int4", "uint4"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_four_bit_products_have_signed_codes_and_sums(kind: type, per_channel: bool) -> None:
    shape = (N,) if per_channel else ()
    weights, zeros = codes(kind, K, N), codes(kind, *shape)
    scales = RANDOM.uniform(0.1, 1, shape).astype(np.float16)
    stored = [value("w", weights), value("s", scales), value("z", zeros)]
    packed, scale, zero, sums = arrays(integer_matrix(graph(), stored, sums=True).values)
    steps = weights.astype(np.int64) - zeros.astype(np.int64)
    np.testing.assert_array_equal(unpack(packed, N, K, 4).T - zero, steps)
    np.testing.assert_array_equal(sums, steps.sum(0))
    np.testing.assert_array_equal(scale, np.broadcast_to(scales, N))
    assert (sums.dtype, zero.dtype) == (np.int32, np.int8)


@pytest.mark.parametrize("sums", [True, False])
def test_int8_products_have_sums_where_activations_have_zero_points(sums: bool) -> None:
    weights = RANDOM.integers(-128, 128, (K, N)).astype(np.int8)
    stored = [value("w", weights), value("s", np.ones(N, np.float16))]
    packed, _, *rest = arrays(integer_matrix(graph(), stored, sums=sums).values)
    np.testing.assert_array_equal(unpack(packed, N, K, 8).T, weights)
    assert len(rest) == sums
    for found in rest:
        np.testing.assert_array_equal(found, weights.sum(0, dtype=np.int64))


def test_nothing_is_read_before_a_part_is_asked_for() -> None:
    def read() -> ir.TensorProtocol:
        raise AssertionError("read")

    shape = ir.Shape([K, N])
    lazy = ir.LazyTensor(read, dtype=ir.DataType.INT8, shape=shape, name="w")
    weights = ir.Value(
        name="w", shape=shape, type=ir.TensorType(ir.DataType.INT8), const_value=lazy
    )
    target = graph()
    integer_matrix(target, [weights, value("s", np.ones(N, np.float16))], sums=True)
    assert list(target.initializers) == ["w_packed", "s_packed", "w_sums"]


def test_all_linears_of_a_size_share_their_zeros() -> None:
    target = graph()
    zeros = no_bias(target, 5, ir.DataType.FLOAT16)
    assert no_bias(target, 5, ir.DataType.FLOAT16) is zeros
    assert no_bias(target, 6, ir.DataType.FLOAT16) is not zeros
    assert zeros.const_value is not None
    np.testing.assert_array_equal(zeros.const_value.numpy(), np.zeros(5, np.float16), strict=True)


def test_only_the_low_half_of_a_byte_counts() -> None:
    dirty = np.array([0xF7, 0x18, 0xA0], np.uint8)
    of_int4 = ir.Value(name="a", type=ir.TensorType(ir.DataType.INT4))
    of_uint4 = ir.Value(name="b", type=ir.TensorType(ir.DataType.UINT4))
    np.testing.assert_array_equal(signed(dirty, of_int4), [7, -8, 0])
    np.testing.assert_array_equal(signed(dirty, of_uint4), [-1, 0, -8])
