"""Name what a reader hands out: tensors whose shape and dtype are known before they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from castline.errors import CheckpointError

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# A half-precision number is NaN or Inf when every bit of its exponent is set. Numpy's own test
# widens each number first and takes two to three times as long.
_EXPONENT_BITS = {np.dtype(np.float16): np.uint16(0x7C00), BFLOAT16: np.uint16(0x7F80)}
_BLOCK = 1 << 20  # elements looked at together, so that the masks stay small beside any tensor


@dataclass(frozen=True)
class TensorSpec:
    """What one tensor of a checkpoint is, known without reading it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in memory."""
        return self.size * self.dtype.itemsize


class TensorReader(Protocol):
    """The weights of one checkpoint in one file format."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the weights, in name order."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """Every tensor under its Hugging Face parameter name."""
        ...

    def read(self, name: str) -> Array:
        """Return one tensor in the shape and dtype of its spec, its values unchecked.

        Raises CheckpointError when the file no longer holds what it held on opening.
        """
        ...

    def file_of(self, name: str) -> Path:
        """Return the file that holds the tensor."""
        ...


def non_finite_count(array: Array) -> int:
    """Return how many elements of a contiguous array are NaN or Inf; integers never are."""
    if array.dtype.kind in "biu":
        return 0
    exponent = _EXPONENT_BITS.get(array.dtype)
    flat = array.reshape(-1)
    if exponent is None:
        return sum(int(np.count_nonzero(~np.isfinite(block))) for block in _blocks(flat))
    bits = flat.view(np.uint16)
    return sum(int(np.count_nonzero(block & exponent == exponent)) for block in _blocks(bits))


def named(items: Iterable[str], limit: int = 10) -> str:
    """Return the items as a list for an error message, the first `limit` of them by name."""
    every = list(items)
    more = len(every) - limit
    return ", ".join(every[:limit]) + (f" and {more} more" if more > 0 else "")


def refuse(path: Path, problems: list[str], advice: str) -> None:
    """Raise one CheckpointError that tells all problems of a file; return when there is none."""
    if not problems:
        return
    raise CheckpointError(
        f"{path} is damaged: {'; '.join(problems[:10])}{_rest(problems)}. {advice}"
    )


def _rest(problems: list[str]) -> str:
    return f"; and {len(problems) - 10} more problems" if len(problems) > 10 else ""


def _blocks(flat: Array) -> Iterator[Array]:
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]
