"""Hand out the codes that a checkpoint stores by the names of its parameters, matrix by matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from castline.exporters.readers.stored import StoredLinear, StoredMatrix, StoredScheme


class StoredCodes(Protocol):
    """What of a checkpoint is quantized, and the way to it."""

    @property
    def schemes(self) -> Mapping[str, StoredScheme]:
        """How each parameter whose codes can be had is stored."""
        ...

    @property
    def dequantized(self) -> Mapping[str, str]:
        """Why only the values can be had of other parameters that are stored quantized."""
        ...

    def matrices(self, name: str) -> Iterator[StoredMatrix]:
        """Yield the matrix of a parameter, or those of a stack in order, each read when it is due.

        Raises CheckpointError for what of the file cannot be.
        """
        ...


class CodeReader(Protocol):
    """A reader of files some of whose matrices are stored quantized."""

    @property
    def stored(self) -> Mapping[str, StoredLinear]:
        """How each of them is stored, by parameter name."""
        ...

    @property
    def dequantized(self) -> Mapping[str, str]:
        """Why only the values are handed out of some: parameter name -> reason."""
        ...

    def matrix(self, name: str) -> StoredMatrix:
        """Return what is stored of one. Raises CheckpointError for what of the file cannot be."""
        ...


@dataclass(frozen=True)
class CodesOfReader:
    """The codes of a reader's own matrices."""

    reader: CodeReader

    @property
    def schemes(self) -> Mapping[str, StoredScheme]:
        """How each matrix is stored."""
        return {name: linear.scheme for name, linear in self.reader.stored.items()}

    @property
    def dequantized(self) -> Mapping[str, str]:
        """Why only the values can be had of others."""
        return self.reader.dequantized

    def matrices(self, name: str) -> Iterator[StoredMatrix]:
        """Yield the one matrix."""
        yield self.reader.matrix(name)
