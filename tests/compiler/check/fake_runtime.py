"""Stand in for TensorRT's runtime and for libcudart, as far as Polygraphy's TrtRunner uses them.

An engine is JSON: the ONNX file that it computes, and the shapes of its inputs in each profile. The
GPU's memory is the host's, and begins as NaN. TensorRT's rules hold: shapes are those of the chosen
profile, every address is set, and present is in the memory of past where a cache is fixed.
"""

from __future__ import annotations

import abc
import ctypes
import enum
import json
from typing import Any

import numpy as np
import onnxruntime
import polygraphy.cuda.cuda

__version__ = "10.15.1"
TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorFormat = enum.Enum("TensorFormat", ["LINEAR", "HWC", "CHW16"])
DataType = enum.Enum("DataType", ["FLOAT", "HALF", "INT32", "INT64", "INT8"])
float32, float16, int32, int64, int8 = list(DataType)
TYPES = {
    "tensor(float)": (float32, np.float32),
    "tensor(float16)": (float16, np.float16),
    "tensor(int64)": (int64, np.int64),
}
MEMORY: dict[int, Any] = {}


class ILogger(abc.ABC):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    @abc.abstractmethod
    def log(self, severity: int, message: str) -> None:
        """Take a message; Polygraphy's logger does."""


Logger = ILogger


class IOutputAllocator(abc.ABC):
    @abc.abstractmethod
    def reallocate_output_async(self, *arguments: Any) -> int:
        """Return the address of memory for an output; Polygraphy's allocator does."""

    @abc.abstractmethod
    def notify_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Take the shape of an output; Polygraphy's allocator does."""


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> ICudaEngine:
        return ICudaEngine(self.logger, **json.loads(content))


class ICudaEngine:
    def __init__(self, logger: ILogger, graph: str, profiles: list[Any]) -> None:
        self.logger, self.profiles = logger, profiles
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.nodes = self.inputs | {node.name: node for node in self.session.get_outputs()}
        self.num_io_tensors = len(self.nodes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.nodes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return TYPES[self.nodes[name].type][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.nodes[name].shape)

    def get_tensor_format(self, _name: str, _profile: int) -> TensorFormat:
        return TensorFormat.LINEAR

    def is_shape_inference_io(self, _name: str) -> bool:
        return False

    def get_aliased_input_tensor(self, name: str) -> str | None:
        past = name.replace("present.", "past_key_values.")
        return past if "write_indices" in self.inputs and past != name else None

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)


class IExecutionContext:
    active_optimization_profile = 0

    def __init__(self, engine: ICudaEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, IOutputAllocator] = {}

    def set_optimization_profile_async(self, profile: int, _stream: int) -> bool:
        self.active_optimization_profile = profile
        return profile < len(self.engine.profiles)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes.get(name, self.engine.get_tensor_shape(name))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.profiles[self.active_optimization_profile][name]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse(f"{name}: {list(shape)} is not from {low} to {high}")
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self.addresses.get(name, 0)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: IOutputAllocator) -> bool:
        self.allocators[name] = allocator
        return True

    def execute_async_v3(self, stream: int) -> bool:
        for name in self.engine.nodes:
            past = self.engine.get_aliased_input_tensor(name)
            if past is not None and self.addresses.get(name) != self.addresses[past]:
                return self._refuse(f"{name} is not in the memory of {past}")
            if not self.addresses.get(name) and name not in self.allocators:
                return self._refuse(f"{name} has no address")
        feed = {name: self._read(name) for name in self.engine.inputs}
        names = [name for name in self.engine.nodes if name not in feed]
        for name, array in zip(names, self.engine.session.run(names, feed), strict=True):
            self._write(name, np.ascontiguousarray(array), stream)
        return True

    def _read(self, name: str) -> np.ndarray[Any, Any]:
        dtype = np.dtype(TYPES[self.engine.nodes[name].type][1])
        size = int(np.prod(self.shapes[name])) * dtype.itemsize
        content = ctypes.string_at(self.addresses[name], size)
        return np.frombuffer(content, dtype).reshape(self.shapes[name])

    def _write(self, name: str, array: np.ndarray[Any, Any], stream: int) -> None:
        allocator = self.allocators.get(name)
        if allocator is not None:
            self.addresses[name] = allocator.reallocate_output_async(
                name, 0, array.nbytes, 256, stream
            )
            allocator.notify_shape(name, array.shape)
        self.shapes[name] = array.shape
        ctypes.memmove(self.addresses[name], array.ctypes.data, array.nbytes)

    def _refuse(self, reason: str) -> bool:
        self.engine.logger.log(ILogger.ERROR, reason)
        return False


class HostMemory:
    """What Polygraphy calls in libcudart, all done at once."""

    def cudaStreamCreate(self, stream: Any) -> int:  # noqa: N802
        stream._obj.value = 1
        return 0

    def cudaStreamSynchronize(self, _stream: Any) -> int:  # noqa: N802
        return 0

    cudaStreamDestroy = cudaStreamSynchronize  # noqa: N815

    def cudaMalloc(self, address: Any, size: Any) -> int:  # noqa: N802
        block = ctypes.create_string_buffer(b"\xff" * size.value, max(size.value, 1))
        address._obj.value = ctypes.addressof(block)
        MEMORY[address._obj.value] = block
        return 0

    def cudaFree(self, address: Any) -> int:  # noqa: N802
        MEMORY.pop(address.value, None)
        return 0

    def cudaMemcpyAsync(  # noqa: N802
        self, target: Any, source: Any, size: Any, _kind: Any, _stream: Any
    ) -> int:
        ctypes.memmove(target, source, int(getattr(size, "value", size)))
        return 0

    def cudaMemcpy(self, target: Any, source: Any, size: Any, kind: Any) -> int:  # noqa: N802
        return self.cudaMemcpyAsync(target, source, size, kind, None)


def _use_host_memory(self: Any) -> None:
    self.handle = HostMemory()


def init_libnvinfer_plugins(_logger: ILogger, _namespace: str) -> bool:
    return True


polygraphy.cuda.cuda.Cuda.__init__ = _use_host_memory  # type: ignore[method-assign]
