"""Stand in for TensorRT's Python API of building and refitting, as far as Castline uses it.

It keeps TensorRT's rules: networks are strongly typed (by a flag in 10, always in 11), every open
input has a shape in every profile, flags must exist. An engine is JSON of what was asked for.
FAKE_TENSORRT_VERSION says which version it is.
"""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path
from typing import Any

import onnx

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "10.14.1")
MAJOR = int(__version__.split(".")[0])


def _members(name: str, *names: str) -> Any:
    """Return an enumeration with `__members__`, as pybind11's have."""
    return enum.IntEnum(name, [(member, number) for number, member in enumerate(names)])


_TYPED = {9: ("EXPLICIT_BATCH",), 10: ("EXPLICIT_BATCH", "STRONGLY_TYPED"), 11: ("PREFER_AOT",)}
NetworkDefinitionCreationFlag = _members("Flag", *_TYPED[MAJOR])
BuilderFlag = _members(
    "BuilderFlag",
    *(("FP16", "INT8") if MAJOR < 11 else ()),
    *("REFIT", "TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL"),
)
MemoryPoolType = _members("MemoryPoolType", "WORKSPACE", "TACTIC_DRAM")
HardwareCompatibilityLevel = _members(
    "Level", "NONE", "AMPERE_PLUS", *(("SAME_COMPUTE_CAPABILITY",) if MAJOR >= 11 else ())
)
OnnxParserFlag = _members("OnnxParserFlag", "NATIVE_INSTANCENORM", "ENABLE_PLUGIN_OVERRIDE")
ProfilingVerbosity = _members("Verbosity", "LAYER_NAMES_ONLY", "NONE", "DETAILED")
LayerType = _members("LayerType", "MATRIX_MULTIPLY", "SHAPE", "QUANTIZE", "DEQUANTIZE")
SerializationFlag = _members("SerializationFlag", "EXCLUDE_WEIGHTS")
TensorLocation = _members("TensorLocation", "DEVICE", "HOST")
EngineCapability = _members("EngineCapability", "STANDARD")
PreviewFeature = _members("PreviewFeature", "PROFILE_SHARING")
DeviceType = _members("DeviceType", "GPU", "DLA")
TacticSource = _members("TacticSource", "EDGE_MASK_CONVOLUTIONS")
float32 = "float32"


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, severity: int = WARNING) -> None:
        self.min_severity = severity


ILogger = Logger


def init_libnvinfer_plugins(_logger: Any, _namespace: str) -> bool:
    return True


class Tensor:
    """An input of a network."""

    is_shape_tensor = False
    is_execution_tensor = True
    location = TensorLocation.DEVICE
    dtype = float32

    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name = value.name
        sizes = value.type.tensor_type.shape.dim
        self.shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in sizes)


class Layer:
    precision_is_set = False
    num_outputs = num_inputs = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.type = LayerType.MATRIX_MULTIPLY


class Network:
    """What a parser read."""

    name = "network"

    def __init__(self, flags: int) -> None:
        typed = MAJOR >= 11 or flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert typed, "TensorRT 10 would choose precisions of its own in this network"
        assert MAJOR < 11 or flags == 0, "TensorRT 11 does not know these flags"
        self.inputs: list[Tensor] = []
        self.layers: list[Layer] = []
        self.weights: dict[str, int] = {}

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = 0
    num_layers = property(lambda self: len(self.layers))

    def __iter__(self) -> Any:
        return iter(self.layers)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]


class OnnxParser:
    flags = 0
    num_errors = 0

    def __init__(self, network: Network, _logger: Logger) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        graph = onnx.load(path, load_external_data=False).graph
        self._network.inputs = [Tensor(value) for value in graph.input]
        self._network.layers = [Layer(node.name) for node in graph.node]
        self._network.weights = _weights(Path(path))
        return True


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, *shapes: Any) -> None:
        low, likely, high = (list(shape) for shape in shapes)
        assert all(a <= b <= c for a, b, c in zip(low, likely, high, strict=True))
        self.shapes[name] = [low, likely, high]

    def __bool__(self) -> bool:
        return True


class TimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data + b"timed;"

    def combine(self, _other: TimingCache, *, ignore_mismatch: bool) -> bool:
        return ignore_mismatch

    def serialize(self) -> Any:
        return memoryview(self._data)


class Config:
    hardware_compatibility_level = HardwareCompatibilityLevel.NONE
    engine_capability = EngineCapability.STANDARD
    profiling_verbosity = ProfilingVerbosity.NONE
    DLA_core = -1
    default_device_type = DeviceType.GPU
    avg_timing_iterations = 1
    num_optimization_profiles = property(lambda self: len(self.profiles))

    def __init__(self) -> None:
        self.set: set[str] = set()
        self.profiles: list[Profile] = []
        self.pools: dict[str, int] = {}

    def set_flag(self, flag: Any) -> None:
        self.set.add(BuilderFlag(flag).name)

    def clear_flag(self, flag: Any) -> None:
        self.set.discard(BuilderFlag(flag).name)

    def get_flag(self, flag: Any) -> bool:
        return BuilderFlag(flag).name in self.set

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[MemoryPoolType(pool).name] = size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self.pools.get(MemoryPoolType(pool).name, 1 << 40)

    def get_tactic_sources(self) -> int:
        return 0

    def get_preview_feature(self, _feature: Any) -> bool:
        return False

    def create_timing_cache(self, data: bytes) -> TimingCache:
        return TimingCache(bytes(data))

    def set_timing_cache(self, cache: TimingCache, *, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        return self.cache


class Builder:
    def __init__(self, _logger: Logger) -> None:
        pass

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: Network, config: Config) -> bytes:
        for tensor in network.inputs:
            open_ = -1 in tensor.shape
            assert not open_ or all(tensor.name in one.shapes for one in config.profiles)
        stripped = "STRIP_PLAN" in config.set
        return json.dumps(
            {
                "version": __version__,
                "flags": sorted(config.set),
                "level": config.hardware_compatibility_level.name,
                "pools": config.pools,
                "profiles": [one.shapes for one in config.profiles],
                "names": sorted(network.weights),
                "weights": {} if stripped else network.weights,
            }
        ).encode()


class Engine:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told

    def create_serialization_config(self) -> Serialization:
        return Serialization()

    def serialize_with_config(self, config: Serialization) -> bytes:
        weights = {} if config.without_weights else self.told["weights"]
        return json.dumps({**self.told, "weights": weights}).encode()


class Serialization:
    without_weights = True  # as TensorRT begins for an engine that was stripped

    def clear_flag(self, flag: Any) -> None:
        assert flag == SerializationFlag.EXCLUDE_WEIGHTS
        self.without_weights = False


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, _logger: Logger) -> None:
        pass

    def deserialize_cuda_engine(self, engine: bytes) -> Engine | None:
        told = json.loads(engine)
        if "VERSION_COMPATIBLE" in told["flags"] and not self.engine_host_code_allowed:
            return None
        return Engine(told) if told["version"] == __version__ else None


class Refitter:
    def __init__(self, engine: Engine, _logger: Logger) -> None:
        self.engine = engine
        self.given: dict[str, int] = {}

    def get_missing_weights(self) -> list[str]:
        return [name for name in self.engine.told["names"] if name not in self.given]

    def refit_cuda_engine(self) -> bool:
        self.engine.told["weights"] = self.given
        return not self.get_missing_weights()


class OnnxParserRefitter:
    num_errors = 0

    def __init__(self, refitter: Refitter, _logger: Logger) -> None:
        self._refitter = refitter

    def refit_from_file(self, path: str) -> bool:
        self._refitter.given = _weights(Path(path))
        return True


def _weights(path: Path) -> dict[str, int]:
    """Return a number for the bytes of every initializer, those beside the model too."""
    graph = onnx.load(path, load_external_data=False).graph
    return {tensor.name: sum(_bytes(tensor, path.parent)) for tensor in graph.initializer}


def _bytes(tensor: onnx.TensorProto, folder: Path) -> bytes:
    if not tensor.external_data:
        return tensor.raw_data
    told = {entry.key: entry.value for entry in tensor.external_data}
    begin = int(told.get("offset", 0))
    return (folder / told["location"]).read_bytes()[begin : begin + int(told["length"])]
