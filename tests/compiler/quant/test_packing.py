"""Packed codes are what MatMulNBits of ONNX Runtime multiplies by."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from castline.compiler.quant.packing import (
    halves,
    packed_codes,
    packed_halves,
    packed_zero_points,
    unsigned,
)
from castline.compiler.targets.runtime import LOG_FATAL_ONLY

RANDOM = np.random.default_rng(0)


def code_at(packed: np.ndarray, bits: int, block: int, k: int, n: int) -> int:
    """Read one code as the operator's documentation says, apart from the code under test."""
    start = (k % block) * bits
    byte = int(packed[n, k // block, start // 8])
    return (byte >> (start % 8)) & ((1 << bits) - 1)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
def test_every_code_is_where_the_operator_looks_for_it(bits: int, block: int) -> None:
    k, n = 2 * block, 3
    codes = RANDOM.integers(0, 2**bits, (k, n), dtype=np.uint8)
    packed = packed_codes(codes, bits, block)
    assert packed.shape == (n, 2, block * bits // 8)
    assert packed.dtype == np.uint8
    read = [[code_at(packed, bits, block, i, j) for j in range(n)] for i in range(k)]
    np.testing.assert_array_equal(read, codes)


@pytest.mark.parametrize("groups", [1, 2, 3, 8])
def test_zero_points_of_4_bits_share_bytes_and_an_odd_last_one_is_padded(groups: int) -> None:
    zero_points = RANDOM.integers(0, 16, (groups, 5), dtype=np.uint8)
    packed = packed_zero_points(zero_points, 4)
    assert packed.shape == (5, (groups + 1) // 2)
    for group, n in itertools.product(range(groups), range(5)):
        assert (packed[n, group // 2] >> (4 * (group % 2))) & 15 == zero_points[group, n]


def test_zero_points_of_8_bits_have_a_byte_each() -> None:
    zero_points = RANDOM.integers(0, 256, (3, 5), dtype=np.uint8)
    np.testing.assert_array_equal(packed_zero_points(zero_points, 8), zero_points.T)


@pytest.mark.parametrize("bits", [4, 8])
def test_signed_codes_are_shifted_by_half_the_range(bits: int) -> None:
    half = 2 ** (bits - 1)
    signed = np.arange(-half, half, dtype=np.int8)
    np.testing.assert_array_equal(unsigned(signed, bits), np.arange(2 * half))


def test_what_is_beside_a_code_of_4_bits_does_not_count() -> None:
    zero_extended = np.array([0x08, 0x0F, 0x00, 0x07], np.uint8).view(np.int8)
    np.testing.assert_array_equal(unsigned(zero_extended, 4), [0, 7, 8, 15])


@pytest.mark.parametrize("with_zero_points", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("block", "groups"), [(16, 3), (32, 1), (32, 5), (64, 2), (128, 3), (256, 1)]
)
def test_the_operator_computes_with_the_codes_that_were_packed(
    bits: int, block: int, groups: int, with_zero_points: bool
) -> None:
    k, n = block * groups, 24
    codes = RANDOM.integers(0, 2**bits, (k, n), dtype=np.uint8)
    scales = RANDOM.uniform(0.01, 0.1, (groups, n)).astype(np.float32)
    zeros = RANDOM.integers(0, 2**bits, (groups, n), dtype=np.uint8)
    if not with_zero_points:
        zeros[:] = 2 ** (bits - 1)  # what the operator takes for none
    activations = RANDOM.standard_normal((3, k)).astype(np.float32)
    weights = (codes.astype(np.float64) - zeros.repeat(block, 0)) * scales.repeat(block, 0)
    result = multiplied(
        activations,
        [packed_codes(codes, bits, block), np.ascontiguousarray(scales.T).reshape(-1)]
        + ([packed_zero_points(zeros, bits)] if with_zero_points else []),
        {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": 1},
    )
    expected = activations @ weights
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


def multiplied(
    activations: np.ndarray, packed: list[np.ndarray], attributes: dict[str, int]
) -> np.ndarray:
    """Return what ONNX Runtime's MatMulNBits makes of `activations` [M, K]."""
    names = ["codes", "scales", "zero_points"][: len(packed)]
    graph = helper.make_graph(
        [
            helper.make_node(
                "MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", **attributes
            )
        ],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, attributes["K"]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, attributes["N"]])],
        [numpy_helper.from_array(array, name) for name, array in zip(names, packed, strict=True)],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_FATAL_ONLY
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"x": activations})
    return result


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(3, 8), (3, 7), (2, 3, 5), (4, 1)])
def test_halves_round_trip(shape: tuple[int, ...], signed: bool) -> None:
    low, high, code_type = (-8, 8, np.int8) if signed else (0, 16, np.uint8)
    codes = RANDOM.integers(low, high, shape).astype(code_type)
    packed = packed_halves(codes.view(np.uint8))
    assert packed.shape == (*shape[:-1], (shape[-1] + 1) // 2)
    found = halves(packed, shape[-1], signed=signed)
    assert found.dtype == code_type
    np.testing.assert_array_equal(found, codes)


def test_the_even_code_is_in_the_low_half_and_the_last_is_padded() -> None:
    codes = np.array([[1, -1, -8]], np.int8).view(np.uint8)
    assert packed_halves(codes).tolist() == [[0xF1, 0x08]]
