"""Map one array out of a file, so that reading a tensor never reads its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.tensors import Array, TensorSpec


@dataclass(frozen=True)
class Extent:
    """Where the bytes of one tensor lie: in which file, of which size, from which byte on."""

    path: Path
    file_size: int
    offset: int


def mapped(extent: Extent, spec: TensorSpec) -> Array:
    """Return the array whose row-major bytes begin at the extent, without copying them.

    The pages are private: they are read when touched, and writing to the array leaves the file as
    it is. Raises CheckpointError when the file is gone or its size changed since it was opened,
    because touching a page past the end of a file kills the process.
    """
    if file_size(extent.path) != extent.file_size:
        raise CheckpointError(
            f"{extent.path} changed while it was being read: it had {extent.file_size} bytes when "
            "it was opened. Wait until whatever writes it has finished, then start again."
        )
    if not spec.nbytes:
        return np.zeros(spec.shape, spec.dtype)
    with opened(extent.path) as file:
        pages = np.memmap(file, spec.dtype, mode="c", offset=extent.offset, shape=spec.shape)
    # Consumers assume aligned numbers; safetensors files of old writers need not hold them so.
    return np.require(np.asarray(pages), requirements="A")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file of the checkpoint to read its bytes; CheckpointError when that fails."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def file_size(path: Path) -> int:
    """Return the size of a file in bytes; CheckpointError when it cannot be asked."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
