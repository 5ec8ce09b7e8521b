"""Promise a checkpoint's tensor: read, transposed and cast only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from castline.errors import CheckpointError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.tensors import Array

_FLOAT16_MAX = 65504.0
_BLOCK = 1 << 22  # elements cast at once, so that a written tensor is never whole in two types


@dataclass(frozen=True, eq=False)
class Scaling:
    """What a stored tensor w is turned into: (w + offset) * factor - offset."""

    factor: Array
    """Has the tensor's rank, and broadcasts to its shape."""
    offset: float = 0.0
    """What the graph adds to the tensor: 1 for the gain of a norm that is stored as 1 + w."""

    def of(self, array: Array) -> Array:
        """Return `array` scaled, in float32 or in its own type if that is wider."""
        dtype = np.promote_types(array.dtype, np.float32)
        offset = dtype.type(self.offset)
        scaled: Array = (array.astype(dtype) + offset) * self.factor.astype(dtype) - offset
        return scaled


class PromisedWeight(ir.LazyTensor):
    """A checkpoint's tensor with its axes in the order `axes`, in the type `dtype`.

    Its `scalings`, of the stored tensor, are applied in order before it is cast.

    Evaluating or writing it raises CheckpointError for what `Checkpoint.read` refuses, and for
    values beyond float16 where that is `dtype`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        dtype: ir.DataType,
        axes: tuple[int, ...] | None = None,
        scalings: tuple[Scaling, ...] = (),
    ) -> None:
        stored = checkpoint.tensors[name].shape
        self._axes = tuple(range(len(stored))) if axes is None else axes
        self._checkpoint = checkpoint
        self._scalings = scalings
        shape = ir.Shape(stored[axis] for axis in self._axes)
        super().__init__(self._whole, dtype=dtype, shape=shape, name=name)

    @property
    def axes(self) -> tuple[int, ...]:
        """The stored tensor's axes in the order that this one has them."""
        return self._axes

    def scaled(self, scaling: Scaling) -> PromisedWeight:
        """Return a promise of the same tensor, scaled after what it is scaled by already."""
        return PromisedWeight(
            self._checkpoint, str(self.name), self.dtype, self._axes, (*self._scalings, scaling)
        )

    def tofile(self, file: BinaryIO) -> None:
        """Write the tensor block by block, a stack whose first axis stays first part by part."""
        begin = 0
        for part in self._parts():
            for block in _blocks(part):
                ir.Tensor(self._cast(self._scaled(block, begin)), dtype=self.dtype).tofile(file)
                begin += len(block) if block.ndim else 0

    def parts(self) -> Iterator[Array]:
        """Yield the tensor in runs [1, ...] along its first axis, of a stack one at a time."""
        begin = 0
        for part in self._parts():
            for entry in range(len(part)):
                yield self._cast(self._scaled(part[entry : entry + 1], begin))
                begin += 1

    def _whole(self) -> ir.TensorProtocol:
        array = self._cast(self._scaled(self._read(), 0))
        return ir.Tensor(array, dtype=self.dtype, name=self.name)

    def _scaled(self, block: Array, begin: int) -> Array:
        """Return a block of the tensor, whose first axis begins at `begin`, after all scalings."""
        stored = self._checkpoint.tensors[str(self.name)].shape
        for scaling in self._scalings:
            factor = np.broadcast_to(scaling.factor, stored).transpose(self._axes)
            if block.ndim:
                factor = factor[begin : begin + len(block)]
            block = Scaling(factor, scaling.offset).of(block)
        return block

    def _parts(self) -> Iterator[Array]:
        if self._axes[:1] != (0,):
            yield self._read()
            return
        for part in self._checkpoint.parts(str(self.name)):
            yield part.transpose(self._axes)

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
