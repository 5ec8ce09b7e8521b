"""Turn frozen values into what JSON has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path


@dataclass(frozen=True)
class PlainValues:
    """Values that turn into mappings, lists, strings, numbers and None."""

    def to_json(self) -> dict[str, object]:
        """Return the fields by name.

        Paths become strings; NaN and infinity, which JSON lacks, the strings "nan" and "inf".
        """
        return plain_fields(self)


def plain_fields(value: object) -> dict[str, object]:
    """Return the fields of a dataclass by name, as plain values."""
    assert is_dataclass(value), f"the caller promised a dataclass, not {type(value).__name__}"
    return {field.name: plain(getattr(value, field.name)) for field in fields(value)}


def plain(value: object) -> object:
    """Return `value` as JSON can have it."""
    if is_dataclass(value):
        return value.to_json() if isinstance(value, PlainValues) else plain_fields(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
