"""Carry the hidden states between blocks on disk, so that memory does not grow with the text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np
import torch
from numpy.lib.format import open_memmap

from castline.compiler.plan.disk import refusing_full_disk, reserve

_File: TypeAlias = np.memmap[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True)
class HiddenStates:
    """What enters a block: one array file [samples, length, hidden], read and written in parts.

    The system keeps as much of it in memory as there is room for.
    """

    path: Path

    def batches(self, rows: int) -> Iterator[torch.Tensor]:
        """Yield it in order, `rows` samples at a time; the last batch may be smaller."""
        stored = np.load(self.path, mmap_mode="r")
        for begin in range(0, len(stored), rows):
            yield torch.from_numpy(np.array(stored[begin : begin + rows]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Samples, tokens of each, width."""
        samples, length, width = np.load(self.path, mmap_mode="r").shape
        return samples, length, width


class HiddenStatesWriter:
    """Writes hidden states beside their place; they are there when all were written."""

    def __init__(self, path: Path, samples: int, length: int) -> None:
        self._path = path
        self._unfinished = path.with_name(f"{path.name}.unfinished")
        self._samples, self._length = samples, length
        self._array: _File | None = None
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
            self._array = None
            self._unfinished.unlink(missing_ok=True)
            return
        assert self._end == self._samples, f"{self._samples} samples promised, {self._end} written"
        assert self._array is not None, "there is at least one sample"
        with refusing_full_disk(self._path.parent):
            self._array.flush()
            self._array = None
            self._unfinished.replace(self._path)

    def append(self, batch: torch.Tensor) -> None:
        """Write the next samples [rows, length, hidden]."""
        with refusing_full_disk(self._path.parent):
            if self._array is None:
                shape = (self._samples, self._length, batch.shape[-1])
                self._array = _allocated(self._unfinished, shape)
            end = self._end + len(batch)
            self._array[self._end : end] = batch.float().cpu().numpy()
            self._end = end


def _allocated(path: Path, shape: tuple[int, ...]) -> _File:
    """Return a new array file whose room is reserved: a full disk is told now, not by a crash."""
    array = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    reserve(path, path.stat().st_size)
    return array
