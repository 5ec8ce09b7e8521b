"""Load a serialized engine by TensorRT's Python API, and give its refusals words."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from castline.compiler.targets.tensorrt.cuda import Memory
from castline.compiler.targets.tensorrt.edition import Edition
from castline.errors import TargetError

Shape: TypeAlias = tuple[int, ...]

# TensorRT's words for element types; those that NumPy can hold, with ml_dtypes.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
    "INT8": np.dtype(np.int8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
}
_LINES_TOLD = 3


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine; -1 in `shape` is a size that is open."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: Shape
    ranges: tuple[tuple[Shape, Shape], ...] = ()
    """For an input, the smallest and the largest shape, one pair for each profile."""
    alias: str | None = None
    """For an output, the input whose memory TensorRT wants it in; None also where it is not told,
    see `Engine.tells_aliases`."""

    def takes(self, shape: Shape, profile: int) -> bool:
        """Return whether this input may have `shape` under a profile."""
        smallest, largest = self.ranges[profile]
        return len(shape) == len(smallest) and all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        )

    @property
    def largest(self) -> Shape:
        """The largest size of every dimension of this input, over all profiles."""
        return tuple(max(sizes) for sizes in zip(*(high for _, high in self.ranges), strict=True))


class Engine:
    """A deserialized engine: its tensors, and contexts that run it.

    `cuda` must be open before: TensorRT loads what it needs into the GPU's current context.
    """

    def __init__(self, path: Path, tensorrt: Any, *, host_code: bool = False) -> None:
        """Read and deserialize the file; the plugins that it needs are registered before.

        `host_code` lets it bring code for the host, as version-compatible engines do.
        Raises TargetError if TensorRT does not take it, with the last of what it logged.
        """
        self.path = path
        self._tensorrt = tensorrt
        logger, self._errors = _log(tensorrt)
        self._errors.clear()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise TargetError(f"{path}: the engine cannot be read: {error.strerror}.") from error
        self._runtime = self._new_runtime(logger)
        self._runtime.engine_host_code_allowed = host_code
        engine: Any = self._runtime.deserialize_cuda_engine(content) if content else None
        if engine is None:
            raise TargetError(
                f"{path}: TensorRT {tensorrt.__version__} cannot load this engine: it is cut "
                "short, or was built by another version, or for another GPU or operating system"
                f"{self._logged()}. Copy the folder again, or build the engine on this machine: "
                f"castline build {path.parent}."
            )
        self._engine: Any = engine
        self._kept: list[Any] = []
        self._require_on_gpu()
        self.tensors = {tensor.name: tensor for tensor in map(self._tensor, self._names())}

    @property
    def profiles(self) -> int:
        """How many optimization profiles it has."""
        return int(self._engine.num_optimization_profiles)

    @property
    def working_memory(self) -> int:
        """How many bytes on the GPU a run takes beside weights and tensors, under any profile."""
        if hasattr(self._engine, "device_memory_size_v2"):  # TensorRT from 10.1 on
            return int(self._engine.device_memory_size_v2)
        return int(self._engine.device_memory_size)

    @property
    def tells_aliases(self) -> bool:
        """Whether this TensorRT says which outputs are in the memory of inputs: from 10.15 on."""
        return hasattr(self._engine, "get_aliased_input_tensor")

    def context(
        self, profile: int, stream: int, memory: Memory, *, replays: bool = False
    ) -> Context:
        """Return a context that runs the engine under one of its profiles.

        `memory` is what it works in, `working_memory` bytes; contexts may share it that never run
        at the same time, as those whose runs are all put into one stream. `replays` asks
        TensorRT-RTX to record the work in a CUDA graph and to replay it, which is for shapes that
        never change; TensorRT has no such thing, see `replay.py`.
        """
        assert memory.size >= self.working_memory, "the caller promised memory that is large enough"
        self._errors.clear()
        context = self._new_context(replays=replays and self.replays_itself)
        if context is None:
            raise TargetError(
                f"{self.path}: TensorRT makes no execution context, which needs memory on the GPU "
                f"beside the weights and the {memory.size:,} bytes that it is to work in"
                f"{self._logged()}. End what else uses the GPU (nvidia-smi), or build the engine "
                "for shorter sequences: castline build --help."
            )
        made = Context(context, self.refused, memory)
        made.choose(profile, stream)
        return made

    @property
    def replays_itself(self) -> bool:
        """Whether this TensorRT records CUDA graphs by itself, as TensorRT-RTX does."""
        return hasattr(self._tensorrt, "CudaGraphStrategy")

    def refused(self, what: str) -> TargetError:
        """Return the error for a call of TensorRT that failed, with what it logged."""
        return TargetError(f"{self.path}: TensorRT could not {what}{self._logged()}.")

    def _new_runtime(self, logger: Any) -> Any:
        try:
            return self._tensorrt.Runtime(logger)
        except TypeError as error:  # pybind11's, where TensorRT made none
            raise TargetError(
                f"TensorRT {self._tensorrt.__version__} does not start{self._logged()}. Most often "
                "the NVIDIA driver is older than its CUDA needs; `castline doctor` shows the "
                "driver. Install a later one, or a TensorRT for an earlier CUDA."
            ) from error

    def _new_context(self, *, replays: bool) -> Any:
        strategy = self._tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not replays:
            return self._engine.create_execution_context(strategy)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = self._tensorrt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._kept.append(config)  # it is not said whether contexts copy it
        return self._engine.create_execution_context(config)

    def _require_on_gpu(self) -> None:
        host = self._tensorrt.TensorLocation.HOST
        found = [n for n in self._names() if self._engine.get_tensor_location(n) == host]
        if found:
            raise TargetError(
                f"{self.path}: TensorRT wants {', '.join(found)} in the memory of the host, as "
                "numbers that decide shapes are; here all inputs and outputs are on the GPU. "
                "Compile the model again with Castline, whose graphs have no such inputs."
            )

    def _logged(self) -> str:
        told = "; ".join(self._errors)
        return f" ({told})" if told else ""

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]

    def _tensor(self, name: str) -> Tensor:
        engine = self._engine
        is_input = engine.get_tensor_mode(name) == self._tensorrt.TensorIOMode.INPUT
        kind = engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise TargetError(
                f"{self.path}: {name} is of type {kind}, which cannot be fed. Expected "
                f"{', '.join(DTYPES)}; compile the model again."
            )
        ranges = []
        for profile in range(self.profiles if is_input else 0):
            smallest, _, largest = engine.get_tensor_profile_shape(name, profile)
            ranges.append((tuple(smallest), tuple(largest)))
        shape = tuple(engine.get_tensor_shape(name))
        told = self.tells_aliases and not is_input
        alias = (engine.get_aliased_input_tensor(name) or None) if told else None
        return Tensor(name, is_input, DTYPES[kind], shape, tuple(ranges), alias)


class Context:
    """An execution context; every call that TensorRT refuses becomes a TargetError."""

    def __init__(self, context: Any, refused: Callable[[str], TargetError], memory: Memory) -> None:
        self._context = context
        self._refused = refused
        self._memory = memory  # stays as long as the context and what was recorded of its runs
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self.changes = 0
        """How often a shape or an address became another one."""

    def choose(self, profile: int, stream: int) -> None:
        """Run under this profile from now on, in the memory that was given."""
        if not self._context.set_optimization_profile_async(profile, stream):
            raise self._refused(f"choose the optimization profile {profile}")
        if hasattr(self._context, "set_device_memory"):  # TensorRT from 10.1 on
            self._context.set_device_memory(self._memory.address, self._memory.size)
        else:
            self._context.device_memory = self._memory.address

    def shape(self, name: str, shape: Shape) -> None:
        """Say what shape an input has in the next run."""
        if self._shapes.get(name) == shape:
            return
        if not self._context.set_input_shape(name, shape):
            raise self._refused(f"take {name} of shape {list(shape)}")
        self._shapes[name] = shape
        self.changes += 1

    def shape_of(self, name: str) -> Shape:
        """Return the shape that an output has in the next run; -1 before every input has one."""
        return tuple(self._context.get_tensor_shape(name))

    def address(self, name: str, address: int) -> None:
        """Say where on the GPU an input or output is in the next run."""
        if self._addresses.get(name) == address:
            return
        if not self._context.set_tensor_address(name, address):
            raise self._refused(f"take an address for {name}")
        self._addresses[name] = address
        self.changes += 1

    def enqueue(self, stream: int) -> None:
        """Put a run into a stream."""
        if not self._context.execute_async_v3(stream):
            raise self._refused("run the engine")


def tensorrt_module(edition: Edition) -> ModuleType:
    """Return the Python module of an edition; TargetError if it is not installed."""
    try:
        return importlib.import_module(edition.module)
    except ImportError as error:
        raise TargetError(
            f"the engine was built with {edition.title}, whose Python module {edition.module} "
            f"cannot be imported here ({error}): {edition.install}."
        ) from error


@cache
def _log(tensorrt: Any) -> tuple[Any, deque[str]]:
    """Return a TensorRT's logger, which drops all but errors, and the last of these.

    There is one until the process ends: all runtimes that live together use the logger of the
    first, even after that one is gone, and so does the registry of plugins.
    """
    errors: deque[str] = deque(maxlen=_LINES_TOLD)

    class Errors(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                errors.append(message)

    return Errors(), errors
