"""Read a model's parameters from tensors that are stored under other names, or in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from castline.exporters.readers.tensors import Array, Indices, TensorSpec

if TYPE_CHECKING:
    from castline.exporters.checkpoint import Checkpoint


@dataclass(frozen=True)
class Part:
    """A run of a parameter's first axis, made of whole stored tensors."""

    sources: tuple[str, ...]
    make: Callable[[Sequence[Array]], Array] | None = None
    """Turns the sources' arrays, in their order, into the part; None where one is it as stored."""
    of_rows: bool = False
    """Whether `make` only stacks matrices, joins them along N, or splits them along N: then codes
    and their scales go through it, too."""


@dataclass(frozen=True)
class Made:
    """How one parameter comes about: its parts, in order, follow one another on its first axis."""

    spec: TensorSpec
    parts: tuple[Part, ...]


class ConvertedReader:
    """The tensors of a checkpoint under other names, put together when they are read.

    They are read by way of the checkpoint, so what is wrong with one is told by its stored name.
    """

    def __init__(self, checkpoint: Checkpoint, made: Mapping[str, Made]) -> None:
        self.files = checkpoint.files
        self.tensors = {name: each.spec for name, each in made.items()}
        self._checkpoint = checkpoint
        self._made = made

    def read(self, name: str) -> Array:
        """Return the tensor; a stack takes its own memory and that of one part."""
        made = self._made[name]
        if len(made.parts) == 1:
            return self._part(made.parts[0])
        whole = np.empty(made.spec.shape, made.spec.dtype)
        begin = 0
        for part in self.parts(name):
            whole[begin : begin + len(part)] = part
            begin += len(part)
        return whole

    def parts(self, name: str) -> Iterator[Array]:
        """Yield the tensor's parts [n, ...] along its first axis, reading each when it is due."""
        for part in self._made[name].parts:
            yield self._part(part)

    def rows_of(self, name: str) -> Callable[[Indices], Array]:
        """Return what gives rows of the tensor; one that is made of others is read for it."""
        parts = self._made[name].parts
        if len(parts) == 1 and parts[0].make is None:
            return self._checkpoint.rows_of(parts[0].sources[0])
        array = self.read(name)
        return lambda indices: array[indices]

    def file_of(self, name: str) -> Path:
        """Return the file that holds the tensor, or the first of what it is made of."""
        return self._checkpoint.reader.file_of(self._made[name].parts[0].sources[0])

    def _part(self, part: Part) -> Array:
        arrays = [self._checkpoint.read(source) for source in part.sources]
        return arrays[0] if part.make is None else part.make(arrays)
