"""Use one NVIDIA GPU through its driver: memory, a stream, and graphs of what a stream did."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_ulonglong, c_void_p
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from castline.errors import TargetError

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY = 2
# Of cuda.h: what the functions below take as numbers.
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile
_NAME_BYTES = 256


class Cuda:
    """One GPU and its primary context, which TensorRT uses, too; for the thread that made it.

    Every status of the driver that is not success becomes a TargetError.
    """

    def __init__(self, library: Any, ordinal: int = 0) -> None:
        self._library = library
        self.call("cuInit", c_uint(0), doing="starting the driver")
        device, context = c_int(), c_void_p()
        self.call("cuDeviceGet", byref(device), c_int(ordinal), doing=f"finding GPU {ordinal}")
        self._device = device.value
        self.call(
            "cuDevicePrimaryCtxRetain", byref(context), device, doing="making the GPU's context"
        )
        self.call("cuCtxSetCurrent", context, doing="making the GPU's context current")

    @classmethod
    def open(cls) -> Self:
        """Use the first GPU that CUDA_VISIBLE_DEVICES leaves visible.

        Raises TargetError if there is no driver, or no GPU, or it does not start.
        """
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise TargetError(
                f"this machine has no NVIDIA driver ({LIBRARY} is not found). Install the driver "
                "of the GPU, or run where there is one."
            ) from error
        return cls(library)

    @property
    def name(self) -> str:
        """The GPU's name, such as NVIDIA L4."""
        text = ctypes.create_string_buffer(_NAME_BYTES)
        self.call(
            "cuDeviceGetName", text, c_int(_NAME_BYTES), c_int(self._device), doing="reading a name"
        )
        return text.value.decode(errors="replace")

    @property
    def compute_capability(self) -> str:
        """The GPU's compute capability, such as 8.9."""
        return f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}"

    def allocate(self, size: int, what: str) -> Memory:
        """Return `size` bytes on the GPU, which hold nothing in particular; `what` is for errors.

        Raises TargetError that says how much was asked for and how much is free.
        """
        address = c_void_p()
        status = self._library.cuMemAlloc_v2(byref(address), c_size_t(max(size, 1)))
        if status == OUT_OF_MEMORY:
            raise TargetError(self._no_room(size, what))
        self._require(status, "cuMemAlloc_v2", f"allocating {what}")
        assert address.value is not None, "the driver gave an address with its success"
        return Memory(address.value, size, self._library)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike, what: str) -> PinnedArray:
        """Return an array of zeros on the host, at a place that the GPU copies to and from."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = c_void_p()
        self.call(
            "cuMemHostAlloc",
            byref(address),
            c_size_t(max(size, 1)),
            c_uint(0),
            doing=f"allocating {size:,} bytes of page-locked host memory for {what}",
        )
        assert address.value is not None, "the driver gave an address with its success"
        return PinnedArray(address.value, shape, dtype, self._library)

    def stream(self) -> Stream:
        """Return a new stream; what is put into it is done in order."""
        handle = c_void_p()
        self.call("cuStreamCreate", byref(handle), c_uint(_NON_BLOCKING), doing="making a stream")
        assert handle.value is not None, "the driver gave a stream with its success"
        return Stream(handle.value, self)

    def call(self, function: str, *arguments: Any, doing: str) -> None:
        """Call the driver; raise TargetError, which says what it was `doing`, if it fails.

        Arguments are ctypes values: a plain int would be passed as 32 bits.
        """
        self._require(getattr(self._library, function)(*arguments), function, doing)

    def _require(self, status: int, function: str, doing: str) -> None:
        if status == 0:
            return
        raise TargetError(
            f"CUDA failed while {doing}: {function} returned {status} ({self._told(status)}). "
            "`castline doctor` shows the driver; nvidia-smi shows the GPU and what else uses it."
        )

    def _told(self, status: int) -> str:
        name, text = c_char_p(), c_char_p()
        self._library.cuGetErrorName(c_int(status), byref(name))
        self._library.cuGetErrorString(c_int(status), byref(text))
        known = [word.value.decode() for word in (name, text) if word.value]
        return ": ".join(known) or "unknown to this driver"

    def _no_room(self, size: int, what: str) -> str:
        free, total = c_size_t(), c_size_t()
        self.call("cuMemGetInfo_v2", byref(free), byref(total), doing="asking for free memory")
        return (
            f"the GPU has no room for {what}: {size:,} bytes asked for, {free.value:,} of "
            f"{total.value:,} free. End what else uses the GPU (nvidia-smi), or build the engine "
            "for shorter sequences: castline build --help."
        )

    def _attribute(self, attribute: int) -> int:
        value = c_int()
        self.call(
            "cuDeviceGetAttribute",
            byref(value),
            c_int(attribute),
            c_int(self._device),
            doing="reading the compute capability",
        )
        return value.value


class Memory:
    """Memory on the GPU; it is given back with the object."""

    def __init__(self, address: int, size: int, library: Any) -> None:
        self.address = address
        self.size = size
        # A status of giving back is that of an earlier failure, which was told then.
        weakref.finalize(self, library.cuMemFree_v2, c_void_p(address))


class PinnedArray:
    """An array on the host that copies go to and from; `array` must not outlive the object."""

    def __init__(
        self, address: int, shape: tuple[int, ...], dtype: DTypeLike, library: Any
    ) -> None:
        self.address = address
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        content = memoryview((c_ubyte * size).from_address(address)).cast("B")
        self.array: NDArray[Any] = np.frombuffer(content, dtype).reshape(shape)
        self.array[...] = 0
        weakref.finalize(self, library.cuMemFreeHost, c_void_p(address))


class Stream:
    """Work for the GPU, done in the order in which it was put in, some time before the wait ends.

    A host array that is copied from or to must be left alone until then.
    """

    def __init__(self, handle: int, cuda: Cuda) -> None:
        self.handle = handle
        self._cuda = cuda
        weakref.finalize(self, cuda._library.cuStreamDestroy_v2, c_void_p(handle))

    def copy_in(self, target: int, source: PinnedArray, size: int) -> None:
        """Copy the first `size` bytes of `source` to the GPU's address `target`."""
        self._cuda.call(
            "cuMemcpyHtoDAsync_v2",
            c_void_p(target),
            c_void_p(source.address),
            c_size_t(size),
            c_void_p(self.handle),
            doing="copying inputs to the GPU",
        )

    def copy_out(self, target: PinnedArray, source: int, size: int, *, offset: int = 0) -> None:
        """Copy `size` bytes at the GPU's address `source` to `target`, `offset` bytes into it."""
        self._cuda.call(
            "cuMemcpyDtoHAsync_v2",
            c_void_p(target.address + offset),
            c_void_p(source),
            c_size_t(size),
            c_void_p(self.handle),
            doing="copying outputs from the GPU",
        )

    def clear(self, memory: Memory) -> None:
        """Fill memory of the GPU with zeros."""
        self._cuda.call(
            "cuMemsetD8Async",
            c_void_p(memory.address),
            c_ubyte(0),
            c_size_t(memory.size),
            c_void_p(self.handle),
            doing="clearing memory of the GPU",
        )

    def wait(self) -> None:
        """Return when all is done; what failed on the GPU since the last wait is told here."""
        self._cuda.call("cuStreamSynchronize", c_void_p(self.handle), doing="running the engine")

    def recorded(self, work: Callable[[], None]) -> Graph:
        """Return a graph of what `work` puts into this stream; nothing of it is done yet.

        Raises TargetError for work that cannot be recorded, and whatever `work` raises.
        """
        handle, graph = c_void_p(self.handle), c_void_p()
        self._cuda.call(
            "cuStreamBeginCapture_v2", handle, c_int(_THREAD_LOCAL), doing="recording a CUDA graph"
        )
        try:
            work()
        except BaseException:
            # The stream is of no use before its recording ends; what went wrong is told already.
            self._cuda._library.cuStreamEndCapture(handle, byref(graph))
            raise
        self._cuda.call("cuStreamEndCapture", handle, byref(graph), doing="recording a CUDA graph")
        return Graph(graph, self, self._cuda)


class Graph:
    """Recorded work, with the addresses and shapes that it was recorded with."""

    def __init__(self, graph: c_void_p, stream: Stream, cuda: Cuda) -> None:
        self._cuda = cuda
        self._stream = stream
        self._executable = c_void_p()
        try:
            cuda.call(
                "cuGraphInstantiateWithFlags",
                byref(self._executable),
                graph,
                c_ulonglong(0),
                doing="making a CUDA graph executable",
            )
        finally:
            cuda._library.cuGraphDestroy(graph)
        weakref.finalize(self, cuda._library.cuGraphExecDestroy, self._executable)

    def launch(self) -> None:
        """Put the whole of it into the stream that it was recorded from."""
        self._cuda.call(
            "cuGraphLaunch",
            self._executable,
            c_void_p(self._stream.handle),
            doing="replaying a CUDA graph",
        )
