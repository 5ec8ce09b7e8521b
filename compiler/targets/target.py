"""Say what every target can do: refuse a recipe early, lower the neutral graph, build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.options import TargetOptions
from castline.progress import Progress


@dataclass(frozen=True)
class Built:
    """What a build did beyond the ONNX files."""

    facts: dict[str, object]
    """For the manifest; holds no times."""
    notes: tuple[str, ...] = ()
    bytes: int | None = None
    """Size of what the runtime loads, where that is not the ONNX model."""
    not_executed: tuple[str, ...] = ()
    """What could not be run on this machine, a sentence each."""
    peak_memory_bytes: int | None = None
    """The largest resident size of the builder's process; None where nothing is built."""
    seconds: float | None = None
    """How long the builder took."""


@dataclass(frozen=True)
class Lowered:
    """What a lowering came to."""

    notes: tuple[str, ...] = ()
    """For the outcome, a sentence each."""
    shares_cache: bool = False
    """Whether every cache is appended to in place, so that past and present may be one buffer."""


class Target(Protocol):
    """A runtime that Castline compiles for."""

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> TargetOptions: ...

    @property
    def dtype(self) -> ir.DataType:
        """The type of what is not quantized, unless the user asks for another."""
        ...

    def require(self, recipe: Recipe) -> None:
        """Raise TargetError if this target cannot do what the recipe asks for, or is missing."""
        ...

    def require_dtype(self, dtype: ir.DataType) -> None:
        """Raise TargetError if this target has no kernels for `dtype`."""
        ...

    def require_graph(self, model: ir.Model, recipe: Recipe, context_length: int) -> None:
        """Raise TargetError if this target has no way to compute what the recipe makes of a graph.

        Also where an option contradicts the model. `model` is the float graph; it is asked before
        anything is searched.
        """
        ...

    def lower(self, model: ir.Model, context_length: int) -> Lowered:
        """Rewrite the neutral graph in place for this target.

        Raises TargetError for what a quantized checkpoint brought that it cannot do.
        """
        ...

    def build(self, folder: Path, context_length: int, progress: Progress) -> Built:
        """Make what the runtime loads from the written model in `folder`."""
        ...

    def finish(self, folder: Path) -> tuple[str, ...]:
        """Give the model in `folder` the form it is published in, once compared; return notes."""
        ...
