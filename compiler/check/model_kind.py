"""Tell what a name given to castline check stands for: a checkpoint, a graph or an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from castline.compiler.check.provenance import local_path
from castline.compiler.targets.session import run_config
from castline.errors import OutputError

Kind: TypeAlias = Literal["checkpoint", "graph"]

_GRAPH = ".onnx"
_ENGINES = (".engine", ".plan")


@dataclass(frozen=True)
class NamedModel:
    """A model by the name that the user gave it."""

    source: str
    graph: Path | None
    """Its .onnx file, which ONNX Runtime runs; None for a checkpoint."""
    engine: Path | None = None
    """The engine that was built of the graph; None where there is none."""

    @property
    def kind(self) -> Kind:
        return "checkpoint" if self.graph is None else "graph"

    @property
    def folder(self) -> Path:
        """Where the graph, its configuration and its tokenizer are."""
        assert self.graph is not None, "only graphs have a folder of ours"
        return self.graph.parent


def named_model(source: str | Path) -> NamedModel:
    """Return what `source` names: an output folder, an .onnx file, an engine, or a checkpoint.

    An engine is named by its folder or its file; the graph that it was built of must be beside it.
    All that is no graph is taken for a checkpoint. Raises OutputError for a graph that is gone.
    """
    path = local_path(str(source))
    if path is None:
        if Path(source).suffix == _GRAPH:
            raise OutputError(f"{source} does not exist. Name an .onnx file, or its folder.")
        return NamedModel(str(source), None)
    if path.suffix in _ENGINES and path.is_file():
        return _engine(str(source), path)
    if path.suffix == _GRAPH and path.is_file():
        return NamedModel(str(source), path)
    graph = path / run_config(path).file if path.is_dir() else None
    if graph is None or not graph.is_file():
        return NamedModel(str(source), None)
    return NamedModel(str(source), graph, _engine_in(path))


def _engine(source: str, engine: Path) -> NamedModel:
    graph = engine.parent / run_config(engine.parent).file
    if not graph.is_file():
        raise OutputError(
            f"{source}: the graph it was built of, {graph.name}, is not beside it. Give the folder "
            "that castline compile wrote."
        )
    return NamedModel(source, graph, engine)


def _engine_in(folder: Path) -> Path | None:
    found = sorted(path for suffix in _ENGINES for path in folder.glob(f"*{suffix}"))
    return found[0] if found else None
