"""Note what the linears of a block read: peaks of every channel, and some rows to try things on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from castline.compiler.search.linear_calls import LinearCall
from castline.errors import CheckpointError

Tensor: TypeAlias = torch.Tensor
Reader: TypeAlias = tuple[str, int | None]
"""A matrix: its parameter's name, and which of a stack it is."""

ROWS = 512
"""Rows of activations that are kept for every linear to measure errors on."""


@dataclass(eq=False)
class Observed:
    """What one linear read on the calibration text."""

    low: Tensor
    """[K]: the least value of each channel."""
    high: Tensor
    """[K]: the largest."""
    parts: list[Tensor] = field(default_factory=list)

    @property
    def peaks(self) -> Tensor:
        """Return the largest absolute value of each channel, [K]."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def over(self, divisors: Tensor) -> Observed:
        """Return what is read once the channels [K] of the value are divided, above zero."""
        parts = [part / divisors for part in self.parts]
        return Observed(self.low / divisors, self.high / divisors, parts)

    @property
    def rows(self) -> Tensor:
        """Some of what it read, [rows, K]."""
        return torch.cat(self.parts)


@dataclass(frozen=True, eq=False)
class _Batch:
    """What is kept of one value, whoever reads it."""

    low: Tensor
    high: Tensor
    rows: Tensor


@dataclass(eq=False)
class Observations:
    """What every linear of a block read; an answer for LinearCalls."""

    calls: int
    """How many times the block will be run."""
    seed: int
    seen: dict[Reader, Observed] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)
    """The parameters that are stored as [K, N]."""
    _turn: int = 0
    _last: tuple[Tensor, _Batch] | None = None
    """What was read last: linears that read one value do so one after the other."""

    def next_batch(self) -> None:
        """Say that the block is run once more."""
        self._turn += 1
        self._last = None

    def __call__(self, call: LinearCall) -> Tensor:
        """Note what is read, and answer as the model would.

        Raises CheckpointError that names the linear if it reads what is not finite.
        """
        if call.transposed:
            self.transposed.add(call.name)
        if call.x.numel():
            if self._last is None or self._last[0] is not call.x:
                self._last = call.x, self._batch(call)
            self._note((call.name, call.expert), self._last[1])
        return call.answer()

    def _batch(self, call: LinearCall) -> _Batch:
        x = call.x.reshape(-1, call.x.shape[-1])
        low, high = x.amin(dim=0), x.amax(dim=0)  # faster together than torch.aminmax is
        finite = torch.isfinite(low) & torch.isfinite(high)
        if not finite.all():
            raise CheckpointError(
                f"{call.name}: what it reads on the calibration text is not finite (NaN or Inf) in "
                f"{int((~finite).sum())} of {len(finite)} channels. Nothing sound can be measured; "
                "get the checkpoint again, or try another calibration text."
            )
        return _Batch(low, high, self._some(x))

    def _note(self, reader: Reader, batch: _Batch) -> None:
        known = self.seen.setdefault(reader, Observed(batch.low, batch.high))
        known.low = torch.minimum(known.low, batch.low)
        known.high = torch.maximum(known.high, batch.high)
        known.parts.append(batch.rows)

    def _some(self, x: Tensor) -> Tensor:
        """Return a few rows, by chance: a first token, which may be an outlier, is rarely one."""
        count = max(1, ROWS // self.calls)
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + self._turn)
        chosen = torch.randperm(len(x), generator=chance)[:count]
        return x[chosen.to(x.device)].clone()
