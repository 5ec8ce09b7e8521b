"""Read safetensors files: the header on opening, one tensor's bytes when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.mapped import Extent, file_size, mapped, opened
from castline.exporters.readers.tensors import Array, TensorSpec, refuse

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""What the format calls a type -> the type."""
_LENGTH_BYTES = 8  # the file begins with the length of its header, a little-endian uint64
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_ADVICE = "Download or write the file again."


class SafetensorsReader:
    """The tensors of one or several safetensors files.

    Source: the format as https://github.com/huggingface/safetensors describes it. A header that
    leaves bytes without an owner, or gives them two, is refused as the format demands.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the headers alone. Raises CheckpointError for a file that is not what it claims."""
        self.files = tuple(files)
        self.tensors: dict[str, TensorSpec] = {}
        self._extents: dict[str, Extent] = {}
        for path in self.files:
            self._open(path)

    def read(self, name: str) -> Array:
        """Return the tensor, mapped from its file."""
        return mapped(self._extents[name], self.tensors[name])

    def file_of(self, name: str) -> Path:
        """Return the file that holds the tensor."""
        return self._extents[name].path

    def _open(self, path: Path) -> None:
        size = file_size(path)
        header, data_start = _header(path, size)
        for name, (spec, begin) in _entries(path, header, size - data_start).items():
            if name in self._extents:
                raise CheckpointError(
                    f"{path} and {self._extents[name].path} both hold the tensor {name}. "
                    "Remove the file that does not belong to the checkpoint."
                )
            self.tensors[name] = spec
            self._extents[name] = Extent(path, size, data_start + begin)


def _header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """Return the header of a file of `size` bytes, and where its data begins."""
    if size < _LENGTH_BYTES:
        raise CheckpointError(
            f"{path} is truncated: it has {size} bytes, and a safetensors file begins with "
            f"{_LENGTH_BYTES} bytes that tell the length of its header. {_ADVICE}"
        )
    with opened(path) as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > min(size - _LENGTH_BYTES, _LONGEST_HEADER):
            raise CheckpointError(
                f"{path} is truncated or no safetensors file: its header should have {length} "
                f"bytes, and {size - _LENGTH_BYTES} follow. {_ADVICE}"
            )
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: its header is not JSON ({error}). {_ADVICE}"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is damaged: its header is not a JSON object. {_ADVICE}")
    return header, _LENGTH_BYTES + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _entries(
    path: Path, header: dict[str, Any], data_size: int
) -> dict[str, tuple[TensorSpec, int]]:
    """Return the spec of each tensor and where it begins in the data, proved to fit the file."""
    entries: dict[str, tuple[TensorSpec, int]] = {}
    problems = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            entries[name] = _entry(entry)
        except ValueError as error:
            problems.append(f"{name} {error}")
    refuse(path, problems, _ADVICE)
    refuse(path, _misplaced(entries, data_size), _ADVICE)
    return entries


def _entry(entry: object) -> tuple[TensorSpec, int]:
    """Return the spec and the first byte of one header entry; ValueError says what is wrong."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError("does not tell its dtype, shape and data_offsets")
    dtype = DTYPES.get(str(entry["dtype"]))
    if dtype is None:
        raise ValueError(f"has dtype {entry['dtype']}, which is none of {', '.join(DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"has shape {shape} at bytes {offsets}, which are not whole numbers")
    spec = TensorSpec(tuple(shape), dtype)
    begin, end = offsets
    if end - begin != spec.nbytes:
        raise ValueError(
            f"takes {end - begin} bytes, but {dtype} of shape {shape} takes {spec.nbytes}"
        )
    return spec, begin


def _sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _misplaced(entries: dict[str, tuple[TensorSpec, int]], data_size: int) -> list[str]:
    """Return what is wrong with the places of the tensors: they must fill the data without gaps."""
    problems = []
    expected, before = 0, "the header"
    for name, (spec, begin) in sorted(entries.items(), key=lambda e: (e[1][1], e[1][0].nbytes)):
        end = begin + spec.nbytes
        if begin < expected:
            problems.append(f"{name} overlaps {before}")
        if begin > expected:
            problems.append(
                f"{begin - expected} bytes between {before} and {name} belong to no tensor"
            )
        if end > data_size:
            problems.append(f"{name} ends at byte {end} of the data, which has {data_size}")
        expected, before = max(expected, end), name
    if data_size > expected:
        problems.append(f"{data_size - expected} bytes follow the last tensor, {before}")
    return problems
