"""Promise a checkpoint's tensor: read, transposed and cast only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from castline.errors import CheckpointError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.tensors import Array

_FLOAT16_MAX = 65504.0
_BLOCK = 1 << 22  # elements cast at once, so that a written tensor is never whole in two types


class PromisedWeight(ir.LazyTensor):
    """A checkpoint's tensor with its axes in the order `axes`, in the type `dtype`.

    Evaluating or writing it raises CheckpointError for what `Checkpoint.read` refuses, and for
    values beyond float16 where that is `dtype`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        dtype: ir.DataType,
        axes: tuple[int, ...] | None = None,
    ) -> None:
        stored = checkpoint.tensors[name].shape
        self._axes = tuple(range(len(stored))) if axes is None else axes
        self._checkpoint = checkpoint
        shape = ir.Shape(stored[axis] for axis in self._axes)
        super().__init__(self._whole, dtype=dtype, shape=shape, name=name)

    def tofile(self, file: BinaryIO) -> None:
        """Write the tensor block by block."""
        array = self._read()
        for block in _blocks(array):
            ir.Tensor(self._cast(block), dtype=self.dtype).tofile(file)

    def _whole(self) -> ir.TensorProtocol:
        return ir.Tensor(self._cast(self._read()), dtype=self.dtype, name=self.name)

    def _read(self) -> Array:
        return self._checkpoint.read(str(self.name)).transpose(self._axes)

    def _cast(self, array: Array) -> Array:
        if self.dtype == ir.DataType.FLOAT16 and array.dtype != np.float16:
            self._require_float16(array)
        return np.asarray(array, dtype=self.dtype.numpy(), order="C")

    def _require_float16(self, array: Array) -> None:
        # Two reductions: the absolute values would be a second copy of the tensor.
        peak = max(float(array.max(initial=0)), -float(array.min(initial=0)))
        if peak > _FLOAT16_MAX:
            raise CheckpointError(
                f"{self.name}: holds {peak:.4g}, beyond float16's largest number, "
                f"{_FLOAT16_MAX:.0f}. Export it as bfloat16 or float32 (--dtype)."
            )


def _blocks(array: Array) -> Iterator[Array]:
    """Yield an array's parts along its first axis, in order."""
    if array.ndim == 0:
        yield array
        return
    rows = max(1, _BLOCK * len(array) // max(1, array.size))
    for begin in range(0, len(array), rows):
        yield array[begin : begin + rows]
