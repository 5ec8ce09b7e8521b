"""Count values batch by batch, in bins that widen as the values grow."""

from __future__ import annotations

import numpy as np

from castline.compiler.quant.arrays import Array

BINS = 8192
"""Half of them below zero, half from zero on."""

_HALF = BINS // 2
_LEAST_EXPONENT = -100  # of the width of a bin; what is smaller counts as zero
_AT_ONCE = 1 << 20  # values whose bins are worked out together: a few MB


class Histogram:
    """How often values occur, by bins [i * width, (i + 1) * width), i from -4096 to 4095.

    The width is the least power of two with which all values fit, so that a bin that widens is two
    neighbours merged: the counts do not depend on how the values were cut into batches.
    """

    def __init__(self) -> None:
        self.counts: Array = np.zeros(BINS, np.int64)
        """int64 [8192]; entry 4096 is the bin that starts at 0."""
        self.low = 0.0
        """Least value so far, or 0 if none is below."""
        self.high = 0.0
        """Greatest value so far, or 0 if none is above."""
        self._exponent = _LEAST_EXPONENT

    @property
    def width(self) -> float:
        """Width of a bin."""
        return float(2.0**self._exponent)

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def peak(self) -> float:
        """Largest absolute value."""
        return max(-self.low, self.high)

    def update(self, values: Array) -> None:
        """Count `values`, of any shape and type of float; they are worked out in float32.

        Raises:
            ValueError: one of them is NaN or infinite. Nothing is counted then.
        """
        if not values.size:
            return
        flat = values.reshape(-1).astype(np.float32, copy=False)
        low, high = float(flat.min()), float(flat.max())
        if not np.isfinite([low, high]).all():
            bad = int(np.count_nonzero(~np.isfinite(flat)))
            raise ValueError(f"{bad} of {flat.size} values are NaN or infinite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen()
        for start in range(0, flat.size, _AT_ONCE):
            # float64: in float32 what is a hair below zero would end up above it.
            part = np.multiply(flat[start : start + _AT_ONCE], 1 / self.width, dtype=np.float64)
            indices = np.floor(part, out=part).astype(np.intp)
            indices += _HALF
            self.counts += np.bincount(indices, minlength=BINS)

    def _widen(self) -> None:
        """Merge bins until the largest value lies within them."""
        exponent = max(int(np.frexp(self.peak)[1]) - _HALF.bit_length() + 1, _LEAST_EXPONENT)
        merges = exponent - self._exponent
        if merges > 0:
            merged = (np.arange(-_HALF, _HALF) >> min(merges, BINS.bit_length())) + _HALF
            counts = np.zeros_like(self.counts)
            np.add.at(counts, merged, self.counts)
            self.counts, self._exponent = counts, exponent
