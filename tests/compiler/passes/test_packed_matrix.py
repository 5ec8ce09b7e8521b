"""A matrix behind a DequantizeLinear is repacked once, whichever way it lies."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.packed_matrix import packed_matrix
from castline.compiler.quant.packing import packed_codes, packed_zero_points

RANDOM = np.random.default_rng(0)
K, N = 64, 3


def model_of(
    codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, attributes: dict[str, int]
) -> tuple[ir.Graph, ir.Node]:
    """Return a graph of one DequantizeLinear with stored inputs."""
    names = ("codes", "scales", "zeros")
    values = [
        ir.Value(
            name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype)
        )
        for name, array in zip(names, (codes, scales, zeros), strict=True)
        if array is not None
        for tensor in [ir.Tensor(array, name=name)]
    ]
    node = ir.node("DequantizeLinear", values, attributes)
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=values)
    return graph, node


def arrays(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


CODES = RANDOM.integers(0, 256, (K, N), dtype=np.uint8)
SCALES = RANDOM.uniform(0.1, 1, (2, N)).astype(np.float32)
ZEROS = RANDOM.integers(0, 256, (2, N), dtype=np.uint8)


@pytest.mark.parametrize("rows_are_outputs", [False, True])
def test_groups_along_k_are_packed_the_same_either_way_round(rows_are_outputs: bool) -> None:
    parts = [part.T.copy() if rows_are_outputs else part for part in (CODES, SCALES, ZEROS)]
    graph, node = model_of(*parts, {"axis": int(rows_are_outputs), "block_size": 32})
    packed = packed_matrix(graph, node)
    assert not isinstance(packed, str)
    assert (packed.k, packed.n, packed.bits, packed.block) == (K, N, 8, 32)
    codes, scales, zeros = map(arrays, packed.values)
    np.testing.assert_array_equal(codes, packed_codes(CODES, 8, 32))
    np.testing.assert_array_equal(scales, SCALES.T.reshape(-1))
    np.testing.assert_array_equal(zeros, packed_zero_points(ZEROS, 8))


@pytest.mark.parametrize("rows_are_outputs", [False, True])
def test_one_scale_per_channel_is_repeated_for_every_block(rows_are_outputs: bool) -> None:
    codes = CODES[:48].T.copy() if rows_are_outputs else CODES[:48]
    axis = 0 if rows_are_outputs else 1
    graph, node = model_of(codes, SCALES[0], ZEROS[0], {"axis": axis})
    packed = packed_matrix(graph, node)
    assert not isinstance(packed, str)
    assert (packed.k, packed.n, packed.block) == (48, N, 16)
    _, scales, zeros = map(arrays, packed.values)
    np.testing.assert_array_equal(scales.reshape(N, 3), np.repeat(SCALES[0][:, None], 3, axis=1))
    np.testing.assert_array_equal(zeros, np.repeat(ZEROS[0][:, None], 3, axis=1))


@pytest.mark.parametrize("rows_are_outputs", [False, True])
def test_one_scale_for_all_is_repeated_for_every_block_and_channel(rows_are_outputs: bool) -> None:
    codes = CODES[:48].T.copy() if rows_are_outputs else CODES[:48]
    attributes = {"axis": 0} if rows_are_outputs else {}
    graph, node = model_of(codes, SCALES[0, 0], ZEROS[0, 0], attributes)
    packed = packed_matrix(graph, node)
    assert not isinstance(packed, str)
    assert (packed.k, packed.n, packed.block) == (48, N, 16)
    stored, scales, zeros = map(arrays, packed.values)
    np.testing.assert_array_equal(stored, packed_codes(CODES[:48], 8, 16))
    np.testing.assert_array_equal(scales, np.full(N * 3, SCALES[0, 0]))
    np.testing.assert_array_equal(zeros, np.full((N, 3), ZEROS[0, 0]))


def test_a_matrix_that_is_asked_for_twice_is_packed_once() -> None:
    graph, node = model_of(CODES, SCALES, None, {"axis": 0, "block_size": 32})
    first, second = packed_matrix(graph, node), packed_matrix(graph, node)
    assert not isinstance(first, str)
    assert first == second
    assert [value.name for value in first.values] == ["codes_packed", "scales_packed"]


def test_says_why_not() -> None:
    graph, node = model_of(CODES[:40], SCALES[0], None, {"axis": 1})
    reason = "K = 40 has no divisor between 16 and 256 that is a power of two"
    assert packed_matrix(graph, node) == reason
    graph, node = model_of(CODES.astype(np.int32), SCALES[0], None, {"axis": 1})
    assert packed_matrix(graph, node) == "its codes are not stored integers of 4 or 8 bits"


def test_scales_of_two_levels_are_not_repacked() -> None:
    integers = RANDOM.integers(1, 17, (2, N), dtype=np.int8)
    _, scales = model_of(integers, SCALES[0], None, {"axis": 1})
    graph, node = model_of(CODES, SCALES, None, {"axis": 0, "block_size": 32})
    node.replace_input_with(1, scales.outputs[0])
    assert packed_matrix(graph, node) == "its scales are integers times a scale per channel"
