"""Stand in for libcuda: memory on the host, and work that is done late.

What is put into a stream is done when the stream is waited for and not before, memory begins as
NaN, and memory that was given back is no longer there: code that forgets a wait, a copy or an
address computes something else, or is told so by a status.
"""

# ruff: noqa: N802 - functions are called as libcuda calls them.

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass, field
from typing import Any

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE = 0, 1, 2, 100
ILLEGAL_ADDRESS, CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 700, 900, 901
NAMES = {
    INVALID_VALUE: "CUDA_ERROR_INVALID_VALUE",
    OUT_OF_MEMORY: "CUDA_ERROR_OUT_OF_MEMORY",
    NO_DEVICE: "CUDA_ERROR_NO_DEVICE",
    ILLEGAL_ADDRESS: "CUDA_ERROR_ILLEGAL_ADDRESS",
    CAPTURE_UNSUPPORTED: "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
    CAPTURE_INVALIDATED: "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
}
ALIGNMENT = 256
HANDLE = c_void_p
POINTER = "a pointer to write to"
# Of cuda.h: the types that each function takes. A plain int would be cut to 32 bits.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER, c_int),
    "cuCtxSetCurrent": (HANDLE,),
    "cuDeviceGetName": (ctypes.Array, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER, c_int, c_int),
    "cuMemGetInfo_v2": (POINTER, POINTER),
    "cuMemAlloc_v2": (POINTER, c_size_t),
    "cuMemFree_v2": (HANDLE,),
    "cuMemHostAlloc": (POINTER, c_size_t, c_uint),
    "cuMemFreeHost": (HANDLE,),
    "cuMemcpyHtoDAsync_v2": (HANDLE, HANDLE, c_size_t, HANDLE),
    "cuMemcpyDtoHAsync_v2": (HANDLE, HANDLE, c_size_t, HANDLE),
    "cuMemsetD8Async": (HANDLE, c_ubyte, c_size_t, HANDLE),
    "cuStreamCreate": (POINTER, c_uint),
    "cuStreamDestroy_v2": (HANDLE,),
    "cuStreamSynchronize": (HANDLE,),
    "cuStreamBeginCapture_v2": (HANDLE, c_int),
    "cuStreamEndCapture": (HANDLE, POINTER),
    "cuGraphInstantiateWithFlags": (POINTER, HANDLE, c_ulonglong),
    "cuGraphLaunch": (HANDLE, HANDLE),
    "cuGraphDestroy": (HANDLE,),
    "cuGraphExecDestroy": (HANDLE,),
    "cuGetErrorName": (c_int, POINTER),
    "cuGetErrorString": (c_int, POINTER),
}
Work = Callable[[], None]


class IllegalAddressError(Exception):
    """Work of a stream touched memory that is not there."""


@dataclass
class FakeStream:
    pending: list[Work] = field(default_factory=list)
    recording: list[Work] | None = None
    invalid: bool = False

    def put(self, work: Work) -> None:
        (self.pending if self.recording is None else self.recording).append(work)


class Memories:
    """Blocks of memory by address; a block that was given back stays, but may not be touched."""

    def __init__(self) -> None:
        self.live: dict[int, tuple[Any, int]] = {}
        self.dead: list[Any] = []

    def take(self, size: int) -> int:
        block = ctypes.create_string_buffer(size + ALIGNMENT)
        address = -(-ctypes.addressof(block) // ALIGNMENT) * ALIGNMENT
        ctypes.memset(address, 0xFF, size)  # NaN in every type of floating point
        self.live[address] = (block, size)
        return address

    def give_back(self, address: int) -> None:
        self.dead.append(self.live.pop(address))

    def require(self, address: int, size: int) -> None:
        for start, (_, length) in self.live.items():
            if start <= address and address + size <= start + length:
                return
        raise IllegalAddressError

    @property
    def used(self) -> int:
        return sum(size for _, size in self.live.values())


class FakeDriver:
    """What libcuda.so.1 exports, for one GPU of `memory` bytes."""

    def __init__(self, memory: int = 1 << 30, capability: str = "8.9", starts: int = SUCCESS):
        self.memory, self.capability, self.starts = memory, capability, starts
        self.device, self.host = Memories(), Memories()
        self.streams: dict[int, FakeStream] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.calls: Counter[str] = Counter()
        self.fails: dict[str, int] = {}
        """Statuses that functions return in place of doing anything."""
        self._broken = SUCCESS
        self._texts: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        types = PROTOTYPES[name]
        act = getattr(type(self), f"_{name}", None)
        assert act is not None, f"the fake has no {name}"

        def function(*arguments: Any) -> int:
            assert len(arguments) == len(types), name
            for argument, expected in zip(arguments, types, strict=True):
                if expected is POINTER:
                    assert type(argument).__name__ == "CArgObject", f"{name}: {argument}"
                else:
                    assert isinstance(argument, expected), f"{name}: {argument}"
            self.calls[name] += 1
            if name in self.fails:
                return self.fails[name]
            return int(act(self, *arguments) or SUCCESS)

        return function

    def stream(self, handle: int | None) -> FakeStream:
        assert handle is not None
        return self.streams[handle]

    def _cuInit(self, _flags: Any) -> int:
        return self.starts

    def _cuDeviceGet(self, device: Any, ordinal: Any) -> None:
        device._obj.value = ordinal.value

    def _cuDevicePrimaryCtxRetain(self, context: Any, _device: Any) -> None:
        context._obj.value = 0xC0

    def _cuCtxSetCurrent(self, context: Any) -> int:
        return SUCCESS if context.value == 0xC0 else INVALID_VALUE

    def _cuDeviceGetName(self, text: Any, _size: Any, _device: Any) -> None:
        text.value = b"NVIDIA Fake"

    def _cuDeviceGetAttribute(self, value: Any, attribute: Any, _device: Any) -> None:
        value._obj.value = int(self.capability.split(".")[{75: 0, 76: 1}[attribute.value]])

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.memory - self.device.used, self.memory

    def _cuMemAlloc_v2(self, address: Any, size: Any) -> int:
        if any(stream.recording is not None for stream in self.streams.values()):
            return CAPTURE_UNSUPPORTED
        if self.device.used + size.value > self.memory:
            return OUT_OF_MEMORY
        address._obj.value = self.device.take(size.value)
        return SUCCESS

    def _cuMemFree_v2(self, address: Any) -> None:
        self.device.give_back(address.value)

    def _cuMemHostAlloc(self, address: Any, size: Any, _flags: Any) -> None:
        address._obj.value = self.host.take(size.value)

    def _cuMemFreeHost(self, address: Any) -> None:
        self.host.give_back(address.value)

    def _cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        self._copy(target.value, self.device, source.value, self.host, size.value, stream)

    def _cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        self._copy(target.value, self.host, source.value, self.device, size.value, stream)

    def _copy(
        self, target: int, there: Memories, source: int, here: Memories, size: int, stream: Any
    ) -> None:
        def work() -> None:
            there.require(target, size)
            here.require(source, size)
            ctypes.memmove(target, source, size)

        self.stream(stream.value).put(work)

    def _cuMemsetD8Async(self, target: Any, value: Any, size: Any, stream: Any) -> None:
        def work() -> None:
            self.device.require(target.value, size.value)
            ctypes.memset(target.value, value.value, size.value)

        self.stream(stream.value).put(work)

    def _cuStreamCreate(self, stream: Any, _flags: Any) -> None:
        handle = 0x1000 + len(self.streams)
        self.streams[handle] = FakeStream()
        stream._obj.value = handle

    def _cuStreamDestroy_v2(self, stream: Any) -> None:
        del self.streams[stream.value]

    def _cuStreamSynchronize(self, stream: Any) -> int:
        found = self.stream(stream.value)
        if found.recording is not None:
            found.invalid = True
            return CAPTURE_UNSUPPORTED
        while found.pending and not self._broken:
            try:
                found.pending.pop(0)()
            except IllegalAddressError:
                self._broken = ILLEGAL_ADDRESS  # every later call tells it, too
        return self._broken

    def _cuStreamBeginCapture_v2(self, stream: Any, _mode: Any) -> None:
        self.stream(stream.value).recording = []

    def _cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        found = self.stream(stream.value)
        recorded, found.recording = found.recording, None
        invalid, found.invalid = found.invalid, False
        if invalid or recorded is None:
            graph._obj.value = None
            return CAPTURE_INVALIDATED
        graph._obj.value = self._new_graph(recorded)
        return SUCCESS

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, _flags: Any) -> None:
        executable._obj.value = self._new_graph(self.graphs[graph.value])

    def _cuGraphLaunch(self, executable: Any, stream: Any) -> None:
        for work in self.graphs[executable.value]:
            self.stream(stream.value).put(work)

    def _cuGraphDestroy(self, graph: Any) -> None:
        del self.graphs[graph.value]

    def _cuGraphExecDestroy(self, executable: Any) -> None:
        del self.graphs[executable.value]

    def _new_graph(self, works: list[Work]) -> int:
        handle = 0x2000 + self.calls.total()
        self.graphs[handle] = works
        return handle

    def _cuGetErrorName(self, status: Any, text: Any) -> int:
        name = NAMES.get(status.value)
        if name is None:
            return INVALID_VALUE
        self._texts.append(ctypes.create_string_buffer(name.encode()))
        text._obj.value = ctypes.cast(self._texts[-1], c_char_p).value
        return SUCCESS

    def _cuGetErrorString(self, _status: Any, _text: Any) -> int:
        return INVALID_VALUE
