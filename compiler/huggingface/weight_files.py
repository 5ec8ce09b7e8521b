"""Write safetensors files whose tensors are computed when they are due, in shards with an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from castline.compiler.quant.arrays import Array
from castline.exporters.readers.safetensors_files import DTYPES
from castline.exporters.readers.tensors import TensorSpec
from castline.progress import Progress, SilentProgress

SHARD_BYTES = 5 * 10**9
"""How large a file may become, as Hugging Face's own; a larger tensor has one of its own."""

_WHOLE = "model.safetensors"
_PART = "model-{:05d}-of-{:05d}.safetensors"
_INDEX = "model.safetensors.index.json"
_LENGTH_BYTES = 8  # the file begins with the length of its header, a little-endian uint64
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Unit:
    """Tensors that are computed together, such as the codes and scales of one linear."""

    specs: Mapping[str, TensorSpec]
    """Name of a tensor -> what it is."""
    compute: Callable[[], Mapping[str, Array]]
    """Returns the arrays by the same names."""

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.specs.values())


def write_weights(
    units: Sequence[Unit],
    folder: Path,
    progress: Progress | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write the tensors of all units into `folder`; return how many bytes they have.

    One unit is in memory at a time. There is one file, model.safetensors, or more and an index.
    """
    shards = list(_shards(units, shard_bytes))
    total = sum(unit.nbytes for unit in units)
    names = [_WHOLE]
    if len(shards) > 1:
        names = [_PART.format(number, len(shards)) for number in range(1, len(shards) + 1)]
    with (progress or SilentProgress()).stage("Writing weights", total, "B") as advance:
        for name, shard in zip(names, shards, strict=True):
            _write_shard(folder / name, shard, advance)
    if len(shards) > 1:
        weight_map = {
            tensor: name
            for name, shard in zip(names, shards, strict=True)
            for unit in shard
            for tensor in unit.specs
        }
        document = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(document, indent=2, sort_keys=True)
        (folder / _INDEX).write_text(text + "\n", encoding="utf-8")
    return total


def _shards(units: Sequence[Unit], most: int) -> Iterator[list[Unit]]:
    """Yield runs of units, each within so many bytes where it has more than one."""
    shard: list[Unit] = []
    size = 0
    for unit in units:
        if shard and size + unit.nbytes > most:
            yield shard
            shard, size = [], 0
        shard.append(unit)
        size += unit.nbytes
    yield shard


def _write_shard(path: Path, units: Sequence[Unit], advance: Callable[[int], None]) -> None:
    begins, header = _header(units)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
        start = file.tell()
        for unit in units:
            arrays = unit.compute()
            assert arrays.keys() == unit.specs.keys(), "a unit promised other tensors"
            for name, spec in unit.specs.items():
                file.seek(start + begins[name])
                _write(file, name, arrays[name], spec)
            advance(unit.nbytes)


def _write(file: BinaryIO, name: str, array: Array, spec: TensorSpec) -> None:
    kept = (array.shape, array.dtype) == (spec.shape, spec.dtype)
    assert kept, f"{name} is {array.dtype} {array.shape}, promised was {spec.dtype} {spec.shape}"
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _header(units: Sequence[Unit]) -> tuple[dict[str, int], bytes]:
    """Return where each tensor begins after the header, and the header.

    Wider types come first: a reader that maps the file wants each tensor at a multiple of its
    type's size.
    """
    specs = {name: spec for unit in units for name, spec in unit.specs.items()}
    ordered = sorted(specs, key=lambda name: -specs[name].dtype.itemsize)
    begins: dict[str, int] = {}
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        spec, begins[name] = specs[name], end
        end += spec.nbytes
        entries[name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [begins[name], end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return begins, text + b" " * (-len(text) % _LENGTH_BYTES)
