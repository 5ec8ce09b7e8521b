"""Read the header of a GGUF file: its metadata, and where each tensor lies."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from castline.errors import CheckpointError
from castline.exporters.readers.mapped import file_size, opened
from castline.exporters.readers.tensors import refuse

Value = str | int | float | bool | tuple[int | float | bool, ...]

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32  # bytes, where `general.alignment` does not say otherwise
_ADVICE = "Download or convert the file again."
_FLOAT32, _TEXT, _ARRAY = 6, 8, 9
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor as the file states it."""

    name: str
    shape: tuple[int, ...]
    """Row-major, the other way round than in the file."""
    kind: GGMLQuantizationType
    offset: int
    """Bytes from the start of the file."""
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """All of a GGUF file but its data."""

    path: Path
    file_size: int
    metadata: Mapping[str, Value]
    """Scalars, strings and arrays of numbers; arrays of strings (the vocabulary) are left out."""
    tensors: tuple[GgufTensor, ...]


def read_gguf_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file of version 2 or 3, every tensor proved to lie in the file.

    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the gguf
    package builds an array for every token of the vocabulary and takes seconds; this one takes
    hundredths. Raises CheckpointError for a file that is truncated or damaged.
    """
    size = file_size(path)
    if size < len(MAGIC):
        raise CheckpointError(f"{path} is truncated: it has {size} bytes. {_ADVICE}")
    with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        cursor = _Cursor(path, content)
        metadata, tensor_count = _read_metadata(cursor)
        tensors = [_read_tensor(cursor) for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise CheckpointError(f"{path} is damaged: general.alignment is {alignment}. {_ADVICE}")
        data_start = -(-cursor.position // alignment) * alignment
    return GgufHeader(path, size, metadata, _placed(path, tensors, data_start, size))


class _Cursor:
    """A place in the file that moves over what was read, and never past the end."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.position = 0
        self._content = content

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._content):
            raise CheckpointError(
                f"{self.path} is truncated: its header goes on to byte {end}, and the file has "
                f"{len(self._content)}. {_ADVICE}"
            )
        taken = self._content[self.position : end]
        self.position = end
        return taken

    def number(self, code: str) -> int:
        values: tuple[int, ...] = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return values[0]

    def text(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.path} is damaged: the text before byte {self.position} is no "
                f"UTF-8. {_ADVICE}"
            ) from error


def _read_metadata(cursor: _Cursor) -> tuple[dict[str, Value], int]:
    """Return the metadata and the number of tensors."""
    magic, version = cursor.take(len(MAGIC)), cursor.number("I")
    if magic != MAGIC:
        raise CheckpointError(f"{cursor.path} is no GGUF file: it begins with {magic!r}. {_ADVICE}")
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{cursor.path} is GGUF version {version}; versions 2 and 3, little-endian, are read. "
            "Convert it again with a current llama.cpp."
        )
    tensor_count, entry_count = cursor.number("Q"), cursor.number("Q")
    metadata = {}
    for _ in range(entry_count):
        key = cursor.text()
        value = _read_value(cursor, key, cursor.number("I"))
        if value is not None:
            metadata[key] = value
    return metadata, tensor_count


def _read_value(cursor: _Cursor, key: str, kind: int) -> Value | None:
    """Return one value, None for an array of strings."""
    if kind == _FLOAT32:
        # The shortest decimal that is this float32: 1e-05, where widening gives 9.99999975e-06.
        return float(str(np.float32(cursor.number(_NUMBERS[kind]))))
    if kind in _NUMBERS:
        return cursor.number(_NUMBERS[kind])
    if kind == _TEXT:
        return cursor.text()
    if kind != _ARRAY:
        raise CheckpointError(f"{cursor.path} is damaged: {key} has unknown type {kind}. {_ADVICE}")
    element, count = cursor.number("I"), cursor.number("Q")
    if element == _TEXT:
        for _ in range(count):
            cursor.take(cursor.number("Q"))
        return None
    if element not in _NUMBERS:
        raise CheckpointError(
            f"{cursor.path} is damaged: {key} is an array of unknown type {element}. {_ADVICE}"
        )
    code = _NUMBERS[element]
    raw = cursor.take(count * struct.calcsize(f"<{code}"))
    return tuple(value for (value,) in struct.iter_unpack(f"<{code}", raw))


def _read_tensor(cursor: _Cursor) -> GgufTensor:
    """Return one entry of the tensor table; its offset is still from the start of the data."""
    name, dimensions = cursor.text(), cursor.number("I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise CheckpointError(
            f"{cursor.path} is damaged: {name} has {dimensions} dimensions, and GGUF knows one to "
            f"{_MOST_DIMENSIONS}. {_ADVICE}"
        )
    shape = tuple(reversed([cursor.number("Q") for _ in range(dimensions)]))
    number, offset = cursor.number("I"), cursor.number("Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError as error:
        raise CheckpointError(
            f"{cursor.path}: {name} has tensor type {number}, which the installed gguf package "
            "does not know. Update it (pip install -U gguf), or convert the file again."
        ) from error
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise CheckpointError(
            f"{cursor.path} is damaged: {name} has rows of {shape[-1]} elements, and {kind.name} "
            f"stores {block} at a time. {_ADVICE}"
        )
    return GgufTensor(name, shape, kind, offset, math.prod(shape) // block * block_bytes)


def _placed(
    path: Path, tensors: list[GgufTensor], data_start: int, size: int
) -> tuple[GgufTensor, ...]:
    """Return the tensors with offsets from the start of the file, proved to lie in it apart."""
    placed = [replace(tensor, offset=data_start + tensor.offset) for tensor in tensors]
    problems = []
    end, before = data_start, "the header"
    for tensor in sorted(placed, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset < end:
            problems.append(f"{tensor.name} overlaps {before}")
        end, before = tensor.offset + tensor.nbytes, tensor.name
        if end > size:
            problems.append(f"{tensor.name} ends at byte {end}, and the file has {size}")
    names = [tensor.name for tensor in placed]
    problems += [
        f"{name} occurs twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    refuse(path, problems, _ADVICE)
    return tuple(placed)
