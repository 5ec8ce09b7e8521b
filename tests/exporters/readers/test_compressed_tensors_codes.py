from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.compressed_tensors_codes import matrix_of_parts
from castline.exporters.readers.compressed_tensors_config import read_settings
from castline.exporters.readers.compressed_tensors_layout import Parts, stored_linear
from castline.exporters.readers.stored import StoredMatrix
from castline.exporters.readers.tensors import TensorSpec

Arrays = dict[str, np.ndarray]
GENERATOR = np.random.default_rng(0)


def words(codes: np.ndarray, bits: int, *, straddled: bool = True) -> np.ndarray:
    """Pack signed codes [R, C] along their rows, each plus 2^(bits - 1), bit by bit."""
    per = codes.shape[1] if straddled else 32 // bits
    packed = []
    for row in codes.tolist():
        line: list[int] = []
        for begin in range(0, len(row), per):
            chunk = row[begin : begin + per]
            number = sum((code + 2 ** (bits - 1)) << (bits * i) for i, code in enumerate(chunk))
            count = -(-len(chunk) * bits // 32)
            line += [(number >> (32 * word)) & 0xFFFFFFFF for word in range(count)]
        packed.append(line)
    return np.array(packed, np.uint32).view(np.int32)


def matrix(
    parts: Arrays, weights: dict[str, Any], form: str = "pack-quantized", **group: Any
) -> StoredMatrix:
    tensors = {f"up.{part}": array for part, array in parts.items()}
    specs = {name: TensorSpec(array.shape, array.dtype) for name, array in tensors.items()}
    groups = {"g": {"targets": ["Linear"], "weights": weights} | group}
    own = read_settings({"format": form, "config_groups": groups}).groups[0]
    linear = stored_linear(Parts.of("up", specs), own)
    found = matrix_of_parts(linear, own.weights, tensors.__getitem__)
    assert found.codes.shape == linear.spec.shape
    return found


def signed(bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return random codes; where there is room, every one that bits can hold is among them."""
    codes = GENERATOR.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, np.int8)
    every = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    codes.reshape(-1)[: every.size] = every[: codes.size]
    return codes


def scales(*shape: int) -> np.ndarray:
    return GENERATOR.uniform(0.5, 2, shape).astype(np.float16)


def expected(codes: np.ndarray, zeros: Any, scale: np.ndarray, group: int) -> np.ndarray:
    """Return (code - zero) * scale, column by column."""
    weight = np.empty(codes.shape, np.float32)
    zeros = np.broadcast_to(zeros, scale.shape)
    for column in range(codes.shape[1]):
        shift = codes[:, column].astype(np.float32) - zeros[:, column // group]
        weight[:, column] = shift * scale[:, column // group].astype(np.float32)
    return weight


@pytest.mark.parametrize("straddled", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_unpacks_symmetric_codes_of_every_width(bits, straddled):
    codes, scale = signed(bits, (7, 64)), scales(7, 2)
    parts = {
        "weight_packed": words(codes, bits, straddled=straddled),
        "weight_scale": scale,
        "weight_shape": np.array([7, 64]),
    }
    found = matrix(parts, {"num_bits": bits, "type": "int", "group_size": 32})
    assert found.codes.dtype == np.int8
    assert found.zero_points is None
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_array_equal(found.scales, scale)
    np.testing.assert_array_equal(found.weight(), expected(codes, 0, scale, 32))


@pytest.mark.parametrize("straddled", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("strategy", "size"), [("group", 32), ("channel", None)])
def test_unpacks_zero_points_along_the_rows(bits, straddled, strategy, size):
    groups = 64 // (size or 64)
    codes, scale, zeros = signed(bits, (11, 64)), scales(11, groups), signed(bits, (11, groups))
    parts = {
        "weight_packed": words(codes, bits, straddled=straddled),
        "weight_zero_point": words(zeros.T, bits, straddled=straddled).T,
        "weight_scale": scale,
    }
    stated = {"num_bits": bits, "symmetric": False, "strategy": strategy, "group_size": size}
    found = matrix(parts, stated)
    assert found.zero_points is not None
    assert (found.codes.dtype, found.zero_points.dtype) == (np.uint8, np.uint8)
    np.testing.assert_array_equal(found.codes, codes.astype(int) + 2 ** (bits - 1))
    np.testing.assert_array_equal(found.zero_points, zeros.astype(int) + 2 ** (bits - 1))
    np.testing.assert_array_equal(found.weight(), expected(codes, zeros, scale, size or 64))


def test_repeats_scales_and_zero_points_of_ragged_groups():
    codes, scale, zeros = signed(4, (3, 96)), scales(3, 2), signed(4, (3, 2))
    parts = {
        "weight_packed": words(codes, 4),
        "weight_zero_point": zeros,
        "weight_scale": scale,
    }
    found = matrix(parts, {"num_bits": 4, "symmetric": False, "group_size": 64})
    assert found.scales.shape == (3, 3)
    np.testing.assert_array_equal(found.weight(), expected(codes, zeros, scale, 64))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("strategy", "size", "shape"),
    [("tensor", None, (1,)), ("channel", None, (6, 1)), ("group", 16, (6, 3))],
)
def test_takes_int8_codes_over_and_makes_those_with_zero_points_unsigned(
    bits, symmetric, strategy, size, shape
):
    codes, scale = signed(bits, (6, 48)), scales(*shape)
    zeros = np.zeros(shape, np.int8) if symmetric else signed(bits, shape)
    parts = {"weight": codes, "weight_scale": scale, "weight_zero_point": zeros}
    stated = {"num_bits": bits, "symmetric": symmetric, "strategy": strategy, "group_size": size}
    found = matrix(parts, stated, "int-quantized")
    assert (found.zero_points is None) == symmetric
    offset = 0 if symmetric else 2 ** (bits - 1)
    np.testing.assert_array_equal(found.codes, codes.astype(int) + offset)
    by_row = np.broadcast_to(scale.reshape(scale.shape[0], -1), (6, max(1, scale.size // 6)))
    by_row_zeros = np.broadcast_to(zeros.reshape(zeros.shape[0], -1), by_row.shape)
    np.testing.assert_array_equal(found.weight(), expected(codes, by_row_zeros, by_row, size or 48))


@pytest.mark.parametrize(("strategy", "shape"), [("tensor", (1,)), ("channel", (5, 1))])
def test_takes_float8_codes_over(strategy, shape):
    codes = GENERATOR.standard_normal((5, 24)).astype(ml_dtypes.float8_e4m3fn)
    scale = scales(*shape)
    stated = {"num_bits": 8, "type": "float", "strategy": strategy}
    activations = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    parts = {"weight": codes, "weight_scale": scale, "input_scale": np.array([0.25], np.float32)}
    found = matrix(parts, stated, "float-quantized", input_activations=activations)
    assert found.codes.dtype == codes.dtype
    assert found.activation_scale == 0.25
    assert found.activation_zero_point == 0
    weight = codes.astype(np.float32) * scale.astype(np.float32)
    np.testing.assert_array_equal(found.weight(), weight)


def test_columns_in_groups_out_of_order_are_moved_together():
    codes, scale = signed(4, (4, 64)), scales(4, 2)
    groups = GENERATOR.permutation(np.repeat([0, 1], 32)).astype(np.int32)
    parts = {"weight_packed": words(codes, 4), "weight_scale": scale, "weight_g_idx": groups}
    found = matrix(parts, {"num_bits": 4, "group_size": 32, "actorder": "group"})
    assert found.order is not None
    assert sorted(found.order) == list(range(64))
    np.testing.assert_array_equal(found.codes, codes[:, found.order])
    weight = codes.astype(np.float32) * scale[:, groups].astype(np.float32)
    np.testing.assert_array_equal(found.weight(), weight)


def test_groups_of_minus_one_are_columns_in_their_own_order():
    codes, scale = signed(4, (4, 64)), scales(4, 2)
    parts = {
        "weight_packed": words(codes, 4),
        "weight_scale": scale,
        "weight_g_idx": np.full(64, -1, np.int32),
    }
    found = matrix(parts, {"num_bits": 4, "group_size": 32, "actorder": "group"})
    np.testing.assert_array_equal(found.weight(), expected(codes, 0, scale, 32))
    without = matrix(parts, {"num_bits": 4, "group_size": 32, "actorder": None})
    assert without.order is None


def test_the_zero_point_of_static_activations_is_unsigned():
    parts = {
        "weight": signed(8, (6, 48)),
        "weight_scale": scales(6, 1),
        "input_scale": np.array(0.5, np.float32),
        "input_zero_point": np.array([-3], np.int8),
    }
    activations = {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": False}
    stated = {"num_bits": 8, "strategy": "channel"}
    found = matrix(parts, stated, "int-quantized", input_activations=activations)
    assert (found.activation_scale, found.activation_zero_point) == (0.5, 125)


def packed_parts(**changes: np.ndarray) -> Arrays:
    parts = {"weight_packed": words(signed(4, (4, 64)), 4), "weight_scale": scales(4, 2)}
    return parts | changes


INFINITE = np.array([[1, np.inf]] * 4, np.float16)
SWAPPED = np.repeat(np.array([1, 0], np.int32), 32)


@pytest.mark.parametrize(
    ("parts", "weights", "said"),
    [
        (packed_parts(weight_scale=INFINITE), {}, r"up\.weight_scale holds 4 of 8 values"),
        (packed_parts(weight_shape=np.array([4, 60])), {}, r"up\.weight_shape says \[4, 60\]"),
        (packed_parts(weight_g_idx=SWAPPED), {}, r"up\.weight_g_idx reorders columns"),
        (
            packed_parts(weight_g_idx=np.zeros(64, np.int32)),
            {"actorder": "group"},
            r"up\.weight_g_idx is no permutation into groups of 32",
        ),
        (
            packed_parts(weight_zero_point=np.ones((4, 2), np.int8)),
            {},
            r"up\.weight_zero_point holds 8 zero-points that are not 0",
        ),
        (
            packed_parts(weight_zero_point=np.full((4, 2), 8, np.int8)),
            {"symmetric": False},
            r"up\.weight_zero_point holds 8 of 8 values out of range, expected -8 to 7",
        ),
    ],
)
def test_names_the_tensor_that_holds_what_cannot_be(parts, weights, said):
    with pytest.raises(CheckpointError, match=said):
        matrix(parts, {"num_bits": 4, "group_size": 32} | weights)


def test_names_int8_codes_that_four_bits_do_not_hold():
    parts = {"weight": np.array([[7, 8, -8, -9]], np.int8), "weight_scale": scales(1, 1)}
    with pytest.raises(CheckpointError, match=r"up\.weight holds 2 of 4 values out of range"):
        matrix(parts, {"num_bits": 4, "strategy": "channel"}, "int-quantized")


def test_names_float8_codes_that_are_not_numbers():
    codes = np.array([[0x7F, 0x38]], np.uint8).view(ml_dtypes.float8_e4m3fn)
    parts = {"weight": codes, "weight_scale": scales(1)}
    stated = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    with pytest.raises(CheckpointError, match=r"up\.weight holds 1 of 2 values that are NaN"):
        matrix(parts, stated, "float-quantized")
