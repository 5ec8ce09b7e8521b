"""Hold what an engine reads and writes: tokens and logits on both sides, caches on the GPU."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from castline.compiler.targets.tensorrt.cuda import Cuda, Memory, Stream
from castline.compiler.targets.tensorrt.engine import Context, Shape, Tensor
from castline.compiler.targets.tensorrt.engine_layout import EngineLayout

_ALIGNMENT = 256  # bytes; what cudaMalloc gives, and TensorRT expects


class Fed:
    """An input that the host fills, and its copy on the GPU."""

    def __init__(self, tensor: Tensor, largest: Shape, cuda: Cuda) -> None:
        self.name = tensor.name
        self._host = cuda.pinned((prod(largest),), tensor.dtype, tensor.name)
        self._device = cuda.allocate(self._host.array.nbytes, tensor.name)
        self._bytes = 0

    @property
    def address(self) -> int:
        """Where it is on the GPU."""
        return self._device.address

    def fill(self, values: NDArray[np.int64]) -> None:
        """Set the values on the host, in the engine's type."""
        self._host.array[: values.size] = values.ravel()
        self._bytes = values.size * self._host.array.itemsize

    def send(self, stream: Stream) -> None:
        """Copy to the GPU what was filled last."""
        stream.copy_in(self._device.address, self._host, self._bytes)


class LogitsBuffer:
    """The logits of a run on the GPU, and as many rows of them on the host as are read."""

    def __init__(self, layout: EngineLayout, batch: int, cuda: Cuda) -> None:
        self._cuda = cuda
        self._dtype = layout.logits.dtype
        self._vocabulary = layout.vocabulary
        self._one = layout.last_logits_alone
        self._row = self._vocabulary * self._dtype.itemsize
        rows = 1 if self._one else layout.longest
        self._device = cuda.allocate(batch * rows * self._row, f"logits of {rows} tokens")
        self._host = cuda.pinned((batch, self._vocabulary), self._dtype, "logits")

    @property
    def address(self) -> int:
        """Where they are on the GPU, [batch, new tokens or 1, vocabulary]."""
        return self._device.address

    def fetch_last(self, batch: int, new: int, stream: Stream) -> None:
        """Copy the last row of each sequence to the host; `last` has it after the wait."""
        rows = 1 if self._one else new
        for index in range(batch):
            source = self.address + (index * rows + rows - 1) * self._row
            stream.copy_out(self._host, source, self._row, offset=index * self._row)

    def last(self, batch: int) -> NDArray[np.float32]:
        """Return what `fetch_last` copied, [batch, 1, vocabulary]."""
        return np.array(self._host.array[:batch, None], dtype=np.float32)

    def all(self, batch: int, new: int, stream: Stream) -> NDArray[np.float32]:
        """Return every row of the run that is in the stream, [batch, new, vocabulary]."""
        host = self._cuda.pinned((batch, new, self._vocabulary), self._dtype, "logits")
        stream.copy_out(host, self.address, host.array.nbytes)
        stream.wait()
        return np.array(host.array, dtype=np.float32)


class EngineCache:
    """The keys and values of past tokens, on the GPU.

    A cache that grows is read from one set of buffers and written to another, which then change
    places; a cache of fixed capacity is one set, which TensorRT updates in place.
    """

    def __init__(self, layout: EngineLayout, batch: int, cuda: Cuda) -> None:
        self._layout = layout
        sizes = [
            prod((batch, past.shape[1], layout.room, past.shape[3])) * past.dtype.itemsize
            for past, _ in layout.caches
        ]
        steps = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
        self._offsets = [sum(steps[:index]) for index in range(len(steps))]
        sets = 1 if layout.fixed else 2
        what = f"keys and values of {batch} x {layout.room} tokens" + ", twice" * (sets == 2)
        self._memory = cuda.allocate(sets * sum(steps), what)
        self._past = self._memory.address
        self._present = self._memory.address + (sets - 1) * sum(steps)

    def bind(self, context: Context) -> None:
        """Tell a context where past and present are in the next run."""
        for (past, present), offset in zip(self._layout.caches, self._offsets, strict=True):
            context.address(past.name, self._past + offset)
            context.address(present.name, self._present + offset)

    def advance(self) -> None:
        """Make the present of the run that was put into the stream the past of the next one."""
        self._past, self._present = self._present, self._past

    def clear(self, stream: Stream) -> None:
        """Fill it with zeros: what is masked is multiplied by zero, which NaN would survive."""
        stream.clear(self._memory)

    @property
    def memory(self) -> Memory:
        """All of it."""
        return self._memory
