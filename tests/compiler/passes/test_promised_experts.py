"""What is made of a stack is computed expert by expert, once, when it is due."""

from __future__ import annotations

import io
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from castline.compiler.passes.promised_experts import PromisedExperts, entries

INT8, FLOAT = ir.DataType.INT8, ir.DataType.FLOAT


class Source:
    """Three experts, each with codes [2, 2] and scales [2]; remembers what was computed."""

    def __init__(self) -> None:
        self.computed: list[int] = []

    def __call__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for expert in range(3):
            self.computed.append(expert)
            yield np.full((2, 2), expert, np.int8), np.full(2, expert / 2, np.float32)


def tensor(value: ir.Value) -> ir.LazyTensor:
    assert isinstance(value.const_value, ir.LazyTensor)
    return value.const_value


def test_a_stack_is_written_expert_by_expert_and_leaves_the_other_parts_behind() -> None:
    source = Source()
    promised = PromisedExperts(source, 2)
    codes = tensor(promised.stack(0, INT8, (3, 2, 2), "codes"))
    scales = tensor(promised.stack(1, FLOAT, (3, 2), "scales"))
    assert source.computed == []
    file = io.BytesIO()
    codes.tofile(file)
    scales.tofile(file)
    assert source.computed == [0, 1, 2]
    expected = np.repeat(np.arange(3, dtype=np.int8), 4).tobytes()
    assert file.getvalue() == expected + np.repeat([0, 0.5, 1], 2).astype(np.float32).tobytes()


def test_one_expert_at_a_time_is_computed_when_it_is_due() -> None:
    source = Source()
    promised = PromisedExperts(source, 2)
    for expert in range(3):
        codes = promised.one(0, expert, INT8, (2, 2), f"codes.{expert}")
        scales = promised.one(1, expert, FLOAT, (2,), f"scales.{expert}")
        assert tensor(codes).numpy().tolist() == [[expert] * 2] * 2
        assert tensor(scales).numpy().tolist() == [expert / 2] * 2
        assert source.computed == list(range(expert + 1))


def test_asking_again_or_out_of_order_computes_again() -> None:
    promised = PromisedExperts(Source(), 2)
    last = promised.one(1, 2, FLOAT, (2,), "scales.2")
    first = promised.one(1, 0, FLOAT, (2,), "scales.0")
    stack = promised.stack(0, INT8, (3, 2, 2), "codes")
    assert tensor(last).numpy().tolist() == [1, 1]
    assert tensor(first).numpy().tolist() == [0, 0]
    for _ in range(2):
        assert tensor(stack).numpy()[:, 0, 0].tolist() == [0, 1, 2]


def test_four_bit_experts_that_end_within_a_byte_are_packed_as_one() -> None:
    def odd() -> Iterator[tuple[np.ndarray, ...]]:
        yield (np.array([1, 2, 3], np.int8),)
        yield (np.array([4, 5, -6], np.int8),)

    stack = tensor(PromisedExperts(odd, 1).stack(0, ir.DataType.INT4, (2, 3), "codes"))
    file = io.BytesIO()
    stack.tofile(file)
    assert file.getvalue() == bytes([0x21, 0x43, 0xA5])
    assert stack.nbytes == 3
    assert stack.numpy().dtype == ml_dtypes.int4


def test_a_tensor_that_comes_in_parts_is_never_whole() -> None:
    class InTwo(ir.Tensor):
        def parts(self) -> Iterator[np.ndarray]:
            yield np.zeros((1, 2))
            yield np.ones((2, 2))

    whole = ir.tensor(np.arange(6.0).reshape(3, 2))
    assert [entry.tolist() for entry in entries(whole)] == [[0, 1], [2, 3], [4, 5]]
    in_two = InTwo(np.zeros((3, 2)))
    assert [entry.tolist() for entry in entries(in_two)] == [[0, 0], [1, 1], [1, 1]]
