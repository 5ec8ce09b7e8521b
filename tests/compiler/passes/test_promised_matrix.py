"""The parts of a matrix are computed once and held until each is taken."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.promised_matrix import PromisedParts


class Computation:
    """Two parts, and how often they were computed."""

    def __init__(self, codes: np.ndarray | None = None) -> None:
        self.times = 0
        self.codes = np.arange(-8, 8, dtype=np.int8).reshape(4, 4) if codes is None else codes

    def __call__(self) -> tuple[np.ndarray, ...]:
        self.times += 1
        return self.codes, np.ones(4, np.float32)


def promised(computation: Computation) -> tuple[PromisedParts, list[ir.Value]]:
    parts = PromisedParts(computation, 2)
    return parts, [
        parts.promise(0, ir.DataType.INT4, (4, 4), "codes"),
        parts.promise(1, ir.DataType.FLOAT, (4,), "scales"),
    ]


def taken(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def test_nothing_is_computed_before_a_part_is_taken() -> None:
    computation = Computation()
    _, values = promised(computation)
    assert computation.times == 0
    assert [(value.name, value.dtype) for value in values] == [
        ("codes", ir.DataType.INT4),
        ("scales", ir.DataType.FLOAT),
    ]
    assert [value.shape for value in values] == [(4, 4), (4,)]


def test_all_parts_come_from_one_computation_and_are_let_go() -> None:
    computation = Computation()
    parts, values = promised(computation)
    np.testing.assert_array_equal(taken(values[0]).astype(np.int8), computation.codes)
    np.testing.assert_array_equal(taken(values[1]), np.ones(4))
    assert computation.times == 1
    assert parts._held == {}


def test_asking_again_computes_again() -> None:
    computation = Computation()
    _, values = promised(computation)
    taken(values[0])
    taken(values[0])
    assert computation.times == 2


def test_four_bit_codes_are_packed_two_to_a_byte() -> None:
    _, (codes, _) = promised(Computation())
    assert codes.const_value is not None
    assert codes.const_value.nbytes == 8
    packed = np.frombuffer(codes.const_value.tobytes(), np.uint8)
    np.testing.assert_array_equal(packed & 15, np.arange(-8, 8, 2) % 16)
    np.testing.assert_array_equal(packed >> 4, np.arange(-7, 8, 2) % 16)


def test_a_shape_other_than_promised_is_our_mistake() -> None:
    _, (codes, _) = promised(Computation(np.zeros((4, 5), np.int8)))
    with pytest.raises(AssertionError, match=r"codes: computed \(4, 5\), promised \(4, 4\)"):
        taken(codes)
