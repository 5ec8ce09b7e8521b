"""Promise what is computed from a stack of matrices, one expert at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.promised_matrix import stored_as
from castline.compiler.quant.arrays import Array


@runtime_checkable
class InParts(Protocol):
    """A tensor that can be had in runs along its first axis, each read when it is due."""

    def parts(self) -> Iterator[Array]:
        """Yield arrays [n, ...], in order, that together are the tensor."""
        ...


def entries(tensor: ir.TensorProtocol) -> Iterator[Array]:
    """Yield the entries of a tensor's first axis; no more is held than one part of it."""
    if isinstance(tensor, InParts):
        for part in tensor.parts():
            yield from part
    else:
        yield from tensor.numpy()


class PromisedExperts:
    """Several tensors that are computed together, expert by expert.

    Each can be had whole, a stack [E, ...], or one expert at a time. What one of them has not been
    asked for yet is held while another runs ahead: codes that are written first leave their scales
    behind, which are small. Asking for an expert again, or out of order, computes from the start.
    """

    def __init__(self, compute: Callable[[], Iterator[tuple[Array, ...]]], parts: int) -> None:
        self._compute = compute
        self._parts = parts
        self._begin()

    def stack(self, part: int, dtype: ir.DataType, shape: tuple[int, ...], name: str) -> ir.Value:
        """Return an initializer of the given part of all experts; `shape` is [E, ...]."""

        def read(expert: int) -> Array:
            return self._take(part, expert)

        return _value(_Stack(read, dtype, shape, name))

    def one(
        self, part: int, expert: int, dtype: ir.DataType, shape: tuple[int, ...], name: str
    ) -> ir.Value:
        """Return an initializer of the given part of one expert; `shape` is without E."""

        def read() -> ir.TensorProtocol:
            array = self._take(part, expert)
            assert array.shape == shape, f"{name}: computed {array.shape}, promised {shape}"
            return ir.Tensor(stored_as(array, dtype), dtype=dtype, name=name)

        return _value(ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(shape), name=name))

    def _begin(self) -> None:
        self._source: Iterator[tuple[Array, ...]] | None = None
        self._held: list[deque[Array]] = [deque() for _ in range(self._parts)]
        self._next = [0] * self._parts

    def _take(self, part: int, expert: int) -> Array:
        if expert < self._next[part]:
            self._begin()
        while True:
            array = self._advance(part)
            if self._next[part] > expert:
                return array

    def _advance(self, part: int) -> Array:
        if not self._held[part]:
            self._source = self._source or self._compute()
            computed = next(self._source)
            assert len(computed) == self._parts, "as many parts as were promised"
            for held, array in zip(self._held, computed, strict=True):
                held.append(array)
        self._next[part] += 1
        return self._held[part].popleft()


class _Stack(ir.LazyTensor):
    """A tensor [E, ...] that is written expert by expert."""

    def __init__(
        self, read: Callable[[int], Array], dtype: ir.DataType, shape: tuple[int, ...], name: str
    ) -> None:
        self._read = read
        super().__init__(self._whole, dtype=dtype, shape=ir.Shape(shape), name=name)

    def parts(self) -> Iterator[Array]:
        """Yield [1, ...] for every expert."""
        count, *shape = self.shape.numpy()
        for expert in range(count):
            array = self._read(expert)
            assert list(array.shape) == shape, f"{self.name}: computed {array.shape}, not {shape}"
            yield stored_as(array, self.dtype)[None]

    def tofile(self, file: BinaryIO) -> None:
        """Write the tensor; at most one expert is held."""
        if self.size // self.shape.numpy()[0] * self.dtype.bitwidth % 8:
            super().tofile(file)  # an expert ends in the middle of a byte
            return
        for part in self.parts():
            ir.Tensor(part, dtype=self.dtype).tofile(file)

    def _whole(self) -> ir.TensorProtocol:
        whole = np.concatenate(list(self.parts()))
        return ir.Tensor(whole, dtype=self.dtype, name=self.name)


def _value(tensor: ir.LazyTensor) -> ir.Value:
    return ir.Value(
        name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
