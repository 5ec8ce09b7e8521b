"""Tell what an ONNX file or an output folder holds, without loading its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from google.protobuf.message import DecodeError

from castline.compiler.report.layer_kinds import LayerKind
from castline.compiler.report.plain import PlainValues
from castline.compiler.report.weights import StoredTensor, quantized_form, stored_tensors
from castline.errors import OutputError

_ENGINES = (".engine", ".plan", ".trt")


@dataclass(frozen=True)
class Port(PlainValues):
    """An input or output of a graph; dynamic dimensions are names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class KindSize(PlainValues):
    """What the layers of one kind weigh."""

    kind: LayerKind
    parameters: int
    bytes: int
    bits_per_weight: float | None


@dataclass(frozen=True)
class ExternalFile(PlainValues):
    """A file that holds weights beside the graph."""

    name: str
    bytes: int | None
    """None: there is no such file."""
    needed: int
    """How many bytes the graph's tensors reach into it."""

    @property
    def problem(self) -> str | None:
        if self.bytes is None:
            return "missing"
        if self.bytes < self.needed:
            return f"too short: {self.needed:,} bytes needed"
        return None


@dataclass(frozen=True)
class GraphInspection(PlainValues):
    """One ONNX file."""

    path: Path
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    operators: Mapping[str, Mapping[str, int]]
    """Domain, operator, how often; the most frequent first."""
    functions: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    kinds: tuple[KindSize, ...]
    parameters: int
    bytes: int
    """Of all constants, each stored one counted once."""
    bits_per_weight: float | None
    dtypes: Mapping[str, int]
    """Bytes by dtype."""
    quantized: Mapping[str, int]
    """How many weights are quantized in which form."""
    external: tuple[ExternalFile, ...]


@dataclass(frozen=True)
class EngineFile(PlainValues):
    """A built engine; what is in it, only the runtime that built it can tell."""

    path: Path
    bytes: int


@dataclass(frozen=True)
class Inspection(PlainValues):
    """What a path holds."""

    path: Path
    graphs: tuple[GraphInspection, ...]
    engines: tuple[EngineFile, ...]


def inspect_path(path: Path) -> Inspection:
    """Inspect an .onnx file, an engine, or a folder of such files.

    Raises OutputError when the path does not exist, holds neither, or a graph cannot be read.
    """
    if not path.exists():
        raise OutputError(f"{path} does not exist. Give an .onnx file or an output folder.")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    engines = tuple(
        EngineFile(file, file.stat().st_size) for file in files if file.suffix in _ENGINES
    )
    graphs = tuple(
        inspect_graph(file)
        for file in files
        if file.suffix == ".onnx" or (file == path and file.suffix not in _ENGINES)
    )
    if not graphs and not engines:
        raise OutputError(
            f"{path}: has no .onnx file and no engine ({', '.join(_ENGINES)}). Give a folder that "
            "`castline compile` or `castline export` wrote; for a checkpoint, ask with --folds."
        )
    return Inspection(path, graphs, engines)


def inspect_graph(path: Path) -> GraphInspection:
    """Inspect one ONNX file. Raises OutputError when it is not one."""
    model = _load(path)
    tensors = _once(stored_tensors(model.graph))
    kinds = _kinds(tensors)
    return GraphInspection(
        path=path,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        ir_version=model.ir_version,
        opsets=dict(model.opset_imports),
        operators=_operators(model.graph),
        functions=tuple(f"{domain}::{name}" for domain, name, _overload in model.functions),
        inputs=tuple(_port(value) for value in model.graph.inputs),
        outputs=tuple(_port(value) for value in model.graph.outputs),
        kinds=kinds,
        parameters=sum(one.parameters for one in kinds),
        bytes=sum(tensor.bytes for tensor in tensors),
        bits_per_weight=_bits_per_weight(tensors),
        dtypes=_bytes_by_dtype(tensors),
        quantized=_counted(filter(None, map(quantized_form, model.graph.all_nodes()))),
        external=_external_files(model.graph, path.parent),
    )


def _load(path: Path) -> ir.Model:
    try:
        model = ir.load(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}.") from error
    except (DecodeError, ir.serde.SerdeError, ValueError) as error:
        raise OutputError(_not_onnx(path, str(error))) from error
    if model.ir_version == 0 or not model.opset_imports:
        raise OutputError(_not_onnx(path, "it has no IR version and no opset"))
    return model


def _not_onnx(path: Path, reason: str) -> str:
    return (
        f"{path}: expected an ONNX model, but it is corrupt, cut short or something else "
        f"({path.stat().st_size:,} bytes; {reason}). Give an .onnx file or write it again."
    )


def _once(tensors: Iterable[StoredTensor]) -> tuple[StoredTensor, ...]:
    kept: dict[object, StoredTensor] = {}
    for tensor in tensors:
        kept.setdefault(tensor.storage or len(kept), tensor)
    return tuple(kept.values())


def _kinds(tensors: tuple[StoredTensor, ...]) -> tuple[KindSize, ...]:
    kinds: dict[LayerKind, list[StoredTensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.kind, []).append(tensor)
    sizes = [
        KindSize(
            kind,
            sum(tensor.parameters for tensor in members),
            sum(tensor.bytes for tensor in members),
            _bits_per_weight(members),
        )
        for kind, members in kinds.items()
    ]
    return tuple(sorted(sizes, key=lambda one: (-one.bytes, one.kind)))


def _bits_per_weight(tensors: Iterable[StoredTensor]) -> float | None:
    weights = [tensor for tensor in tensors if tensor.is_weight]
    parameters = sum(tensor.parameters for tensor in weights)
    return 8 * sum(tensor.bytes for tensor in weights) / parameters if parameters else None


def _bytes_by_dtype(tensors: tuple[StoredTensor, ...]) -> dict[str, int]:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.bytes
    return dict(sizes.most_common())


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _operators(graph: ir.Graph) -> dict[str, dict[str, int]]:
    by_domain: dict[str, list[str]] = {}
    for node in graph.all_nodes():
        by_domain.setdefault(node.domain, []).append(node.op_type)
    return {domain: _counted(names) for domain, names in sorted(by_domain.items())}


def _port(value: ir.Value) -> Port:
    shape = value.shape
    return Port(
        name=value.name or "",
        dtype="unknown" if value.dtype is None else value.dtype.name.lower(),
        shape=None if shape is None else tuple(map(_dimension, shape)),
    )


def _dimension(dimension: int | ir.SymbolicDim) -> int | str:
    return dimension if isinstance(dimension, int) else str(dimension.value or "?")


def _external_files(graph: ir.Graph, folder: Path) -> tuple[ExternalFile, ...]:
    reach: dict[str, int] = {}
    for part in (graph, *graph.subgraphs()):
        for value in part.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                end = (tensor.offset or 0) + tensor.nbytes
                name = str(tensor.location)
                reach[name] = max(reach.get(name, 0), end)
    return tuple(
        ExternalFile(name, _size(folder / name), needed) for name, needed in sorted(reach.items())
    )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
