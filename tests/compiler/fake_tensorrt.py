"""Stand in for TensorRT: its rules, and the graph of an engine on ONNX Runtime.

An engine is the name of the ONNX file that it computes and its profiles. A context reads and writes
the addresses that it was given, when the stream of the fake driver is waited for, and destroys what
is in the memory that it works in.
"""

# ruff: noqa: N802 - functions are called as TensorRT calls them.

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

ALIGNMENT = 256


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, INT64, BOOL = range(6)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


TYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int8)": (DataType.INT8, np.int8),
    "tensor(int32)": (DataType.INT32, np.int32),
    "tensor(int64)": (DataType.INT64, np.int64),
    "tensor(bool)": (DataType.BOOL, np.bool_),
}
Ranges = dict[str, tuple[Sequence[int], Sequence[int]]]


def serialized(model: Path, profiles: Sequence[Ranges]) -> bytes:
    """Return an engine for the fake: the ONNX file that it runs, and the profiles of its inputs."""
    return json.dumps({"fake": str(model), "profiles": profiles}).encode()


class FakeTensorRT:
    """The module tensorrt or, with `rtx`, tensorrt_rtx."""

    TensorIOMode = TensorIOMode
    TensorLocation = TensorLocation
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, driver: Any, *, rtx: bool = False, version: str = "10.9.0.34"):
        self.__name__ = "tensorrt_rtx" if rtx else "tensorrt"
        self.__version__ = version
        self.driver = driver
        self.starts = True
        self.makes_contexts = True
        self.on_host: tuple[str, ...] = ()
        self.aliases: dict[str, str | None] = {}
        """What engines say of outputs, where it is not as the graph has it."""
        self.working_in: dict[int, list[int]] = {}
        """The streams with runs that are not done, by the memory that these work in."""
        self.logger: Any = None  # of the first runtime, used by all
        self.contexts: list[FakeContext] = []
        if rtx:
            self.CudaGraphStrategy = SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1)

    @property
    def is_early(self) -> bool:
        """Whether it is TensorRT 10.0, which had other names for the memory of contexts."""
        return self.__version__.startswith("10.0.")

    @property
    def tells_aliases(self) -> bool:
        minor = int(self.__version__.split(".")[1])
        return self.__name__ == "tensorrt_rtx" or minor >= 15

    def Runtime(self, logger: Any) -> Any:
        self.logger = logger = self.logger or logger
        if not self.starts:
            logger.log(self.ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

        def deserialize_cuda_engine(content: bytes) -> FakeEngine | None:
            try:
                stored = json.loads(content)
            except ValueError:
                logger.log(self.ILogger.WARNING, "a warning")
                logger.log(self.ILogger.ERROR, "the header is wrong")
                return None
            return FakeEngine(self, logger, stored["fake"], stored["profiles"])

        return SimpleNamespace(
            deserialize_cuda_engine=deserialize_cuda_engine, engine_host_code_allowed=False
        )


WORKING_MEMORY = (12345, 2345)
"""Bytes under the first profile, and under each of the others."""


class FakeEngine:
    def __init__(self, trt: FakeTensorRT, logger: Any, model: str, profiles: list[Ranges]):
        self.trt, self.logger, self.profiles = trt, logger, profiles
        if trt.is_early:
            self.device_memory_size = max(WORKING_MEMORY)
        else:
            self.device_memory_size_v2 = max(WORKING_MEMORY)
        if trt.tells_aliases:
            self.get_aliased_input_tensor = self._aliased_input_tensor
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self.nodes = self.inputs | self.outputs
        self.num_io_tensors = len(self.nodes)
        self.num_optimization_profiles = len(profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.nodes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return TYPES[self.nodes[name].type][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.nodes[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        smallest, largest = self.profiles[profile][name]
        return [tuple(smallest), tuple(smallest), tuple(largest)]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.trt.on_host else TensorLocation.DEVICE

    def create_runtime_config(self) -> Any:
        assert hasattr(self.trt, "CudaGraphStrategy"), "TensorRT has no runtime configuration"
        return FakeConfig()

    def create_execution_context(
        self,
        told: Any = ExecutionContextAllocationStrategy.STATIC,
    ) -> FakeContext | None:
        if not self.trt.makes_contexts:
            self.logger.log(self.trt.ILogger.ERROR, "no memory for activations")
            return None
        config = told if isinstance(told, FakeConfig) else FakeConfig(strategy=told)
        self.trt.contexts.append(FakeContext(self, config))
        return self.trt.contexts[-1]

    def _aliased_input_tensor(self, name: str) -> str | None:
        past = name.replace("present", "past_key_values")
        in_place = "write_indices" in self.inputs and past != name
        return self.trt.aliases.get(name, past if in_place else None)


@dataclass
class FakeConfig:
    """What a context is made with; only that of TensorRT-RTX is seen by callers."""

    cuda_graph_strategy: int = 0
    strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self.strategy = strategy


class FakeContext:
    """Refuses what TensorRT refuses, with a word to the logger."""

    def __init__(self, engine: FakeEngine, config: FakeConfig):
        self.engine = engine
        self.replays_itself = config.cuda_graph_strategy == 1
        assert config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED, "the only one"
        self.device_memory = 0
        if not engine.trt.is_early:
            self.set_device_memory = self._set_device_memory
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.ran_with: dict[str, tuple[int, ...]] = {}
        self.runs: list[tuple[int, ...]] = []
        """The shape of input_ids in each run that was put into a stream or recorded."""

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream in self.engine.trt.driver.streams
        others = [c for c in self.engine.trt.contexts if c is not self and c.engine is self.engine]
        if profile in [other.profile for other in others]:
            return self._refuse(f"profile {profile} is in use")
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        if self.profile is None:
            return self._refuse("no profile was chosen")
        smallest, largest = self.engine.profiles[self.profile][name]
        if not all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True)):
            return self._refuse(f"{name}: {list(shape)} is outside of the profile")
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Return a shape as it is once all inputs have theirs, by running the graph on zeros."""
        if self.shapes.keys() != self.engine.inputs.keys():
            return self.engine.get_tensor_shape(name)
        feed = {
            name: np.zeros(self.shapes[name], TYPES[node.type][1])
            for name, node in self.engine.inputs.items()
        }
        return tuple(self.engine.session.run([name], feed)[0].shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in self.engine.nodes or address == 0 or address % ALIGNMENT:
            return self._refuse(f"{name}: bad address {address}")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, handle: int) -> bool:
        stream = self.engine.trt.driver.stream(handle)
        unset = [name for name in self.engine.nodes if name not in self.addresses]
        unset += [name for name in self.engine.inputs if name not in self.shapes]
        if unset:
            return self._refuse(f"not set: {', '.join(unset)}")
        fixed = "write_indices" in self.engine.inputs
        for name, address in self.addresses.items():
            past = name.replace("present", "past_key_values")
            if past != name and (address == self.addresses[past]) != fixed:
                return self._refuse(f"{name} and {past}: wrong aliases")
        memory = self.device_memory
        if memory == 0 or memory % ALIGNMENT:
            return self._refuse("no memory to work in")
        pending = self.engine.trt.working_in.setdefault(memory, [])
        if any(other != handle for other in pending):
            return self._refuse("what it works in is in use by a run in another stream")
        if stream.recording is not None and self.ran_with != self.shapes:
            stream.invalid = True
            return self._refuse("a plugin allocates in its first run, which cannot be recorded")
        self.ran_with = dict(self.shapes)
        self.runs.append(self.shapes["input_ids"])
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        if stream.recording is None:
            pending.append(handle)
        stream.put(lambda: self._compute(shapes, addresses, memory))
        return True

    def _set_device_memory(self, address: int, size: int) -> None:
        if size < max(WORKING_MEMORY):
            self._refuse(f"{size} bytes to work in are too few")
        else:
            self.device_memory = address

    def _compute(
        self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], working: int
    ) -> None:
        memory = self.engine.trt.driver.device
        del self.engine.trt.working_in[working][:1]
        size = WORKING_MEMORY[min(self.profile or 0, 1)]
        memory.require(working, size)
        ctypes.memset(working, 0xFF, size)
        feed = {}
        for name, node in self.engine.inputs.items():
            dtype = np.dtype(TYPES[node.type][1])
            size = int(np.prod(shapes[name])) * dtype.itemsize
            memory.require(addresses[name], size)
            content = ctypes.string_at(addresses[name], size)
            feed[name] = np.frombuffer(content, dtype).reshape(shapes[name])
        results = self.engine.session.run(list(self.engine.outputs), feed)
        for name, result in zip(self.engine.outputs, results, strict=True):
            memory.require(addresses[name], result.nbytes)
            ctypes.memmove(addresses[name], np.ascontiguousarray(result).ctypes.data, result.nbytes)

    def _refuse(self, reason: str) -> bool:
        self.engine.logger.log(self.engine.trt.ILogger.ERROR, reason)
        return False
