"""Read the fields of a quantization configuration, each of the type that it must have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from castline.errors import CheckpointError

PER_CHANNEL = -1
"""The group size that stands for one group with all of K."""


@dataclass(frozen=True)
class QuantizationFields:
    """A quantization configuration as its file has it.

    A field may be called by several names, the first one present counts; null is absent. Each
    method raises CheckpointError that names the field whose value cannot be.
    """

    values: Mapping[str, Any]

    def integer(self, names: tuple[str, ...], allowed: Collection[int]) -> int:
        """Return a field that must be there, one of `allowed`."""
        name, value = self._first(names)
        if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
            expected = ", ".join(map(str, allowed))
            raise CheckpointError(f"{name} is {value!r}, expected {expected}")
        return value

    def group_size(self, names: tuple[str, ...] = ("group_size",)) -> int:
        """Return the columns that share a scale, or PER_CHANNEL."""
        name, value = self._first(names)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or (value < 1 and value != PER_CHANNEL):
            raise CheckpointError(f"{name} is {value!r}, expected a number of columns, or -1")
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return a field that is true or false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(f"{name} is {value!r}, expected true or false")
        return default if value is None else value

    def word(self, names: tuple[str, ...], default: str) -> str:
        """Return a field that is text, in small letters."""
        name, value = self._first(names)
        if value is not None and not isinstance(value, str):
            raise CheckpointError(f"{name} is {value!r}, expected text")
        return (value or default).lower()

    def table(self, name: str) -> Mapping[str, Any]:
        """Return a field that is a table, empty where it is absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(f"{name} is {value!r}, expected a table")
        return value or {}

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        present = (name for name in names if self.values.get(name) is not None)
        name = next(present, names[0])
        return name, self.values.get(name)
