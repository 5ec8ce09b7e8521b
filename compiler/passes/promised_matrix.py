"""Promise the parts of a quantized matrix: computed once, when the first of them is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from castline.compiler.quant.arrays import Array


class PromisedParts:
    """Several tensors that one computation yields, kept only until each was taken once.

    Writing goes through initializers in order and the parts of a matrix stand together, so at most
    a few matrices are held at a time. Asking again computes again.
    """

    def __init__(self, compute: Callable[[], tuple[Array, ...]], parts: int) -> None:
        self._compute = compute
        self._parts = parts
        self._held: dict[int, Array] = {}

    def promise(self, part: int, dtype: ir.DataType, shape: tuple[int, ...], name: str) -> ir.Value:
        """Return an initializer whose tensor is the given part; its array must have that shape."""

        def read() -> ir.TensorProtocol:
            array = self._take(part)
            assert array.shape == shape, f"{name}: computed {array.shape}, promised {shape}"
            return ir.Tensor(stored_as(array, dtype), dtype=dtype, name=name)

        tensor = ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(shape), name=name)
        return ir.Value(
            name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor
        )

    def _take(self, part: int) -> Array:
        if part not in self._held:
            computed = self._compute()
            assert len(computed) == self._parts, "as many parts as were promised"
            self._held = dict(enumerate(computed))
        return self._held.pop(part)


def stored_as(array: Array, dtype: ir.DataType) -> Array:
    """Return the array in the numpy type of `dtype`; codes of 4 bits sit in a byte each already."""
    wanted = np.dtype(dtype.numpy())
    if array.dtype == wanted:
        return array
    return array.view(wanted) if array.dtype.itemsize == wanted.itemsize else array.astype(wanted)
