"""Carry the hidden states between blocks on disk, so that memory does not grow with the text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy

from castline.compiler.plan.disk import refusing_full_disk, reserve

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class HiddenStates:
    """What enters a block: one array file [samples, length, hidden], read and written in parts.

    The system keeps as much of it in memory as there is room for; none of it is this process's.
    """

    path: Path

    def batches(self, rows: int) -> Iterator[torch.Tensor]:
        """Yield it in order, `rows` samples at a time; the last batch may be smaller."""
        with self.path.open("rb") as file:
            samples, length, width = _shape(file)
            for begin in range(0, samples, rows):
                batch = np.empty((min(rows, samples - begin), length, width), _FLOAT32)
                read = file.readinto(batch.data)
                assert read == batch.nbytes, f"{self.path} ends early"
                yield torch.from_numpy(batch)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Samples, tokens of each, width."""
        with self.path.open("rb") as file:
            return _shape(file)


class HiddenStatesWriter:
    """Writes hidden states beside their place; they are there when all were written."""

    def __init__(self, path: Path, samples: int, length: int) -> None:
        self._path = path
        self._unfinished = path.with_name(f"{path.name}.unfinished")
        self._samples, self._length = samples, length
        self._file: BinaryIO | None = None
        self._end = 0

    def __enter__(self) -> HiddenStatesWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            with suppress(OSError):
                self._close()
            self._unfinished.unlink(missing_ok=True)
            return
        with refusing_full_disk(self._path.parent):
            self._close()
        assert self._end == self._samples, f"{self._samples} samples promised, {self._end} written"
        self._unfinished.replace(self._path)

    def append(self, batch: torch.Tensor) -> None:
        """Write the next samples [rows, length, hidden]."""
        with refusing_full_disk(self._path.parent):
            if self._file is None:
                shape = (self._samples, self._length, batch.shape[-1])
                self._file = self._unfinished.open("wb")
                _begin(self._file, shape)
                reserve(self._unfinished, self._file.tell() + math.prod(shape) * _FLOAT32.itemsize)
            self._file.write(batch.float().cpu().contiguous().numpy().data)
            self._end += len(batch)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _begin(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write what stands before the values in a .npy file."""
    described = {"descr": npy.dtype_to_descr(_FLOAT32), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, described)
    file.flush()


def _shape(file: BinaryIO) -> tuple[int, int, int]:
    """Return what _begin wrote; the values come next."""
    npy.read_magic(file)
    samples, length, width = npy.read_array_header_1_0(file)[0]
    return samples, length, width
