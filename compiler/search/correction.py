"""Learn low-rank corrections that make up for the quantization of a window of blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LinearLR

from castline.compiler.recipes.reassembly import Correction
from castline.compiler.search.low_rank import LowRank
from castline.compiler.search.observation import Reader
from castline.compiler.search.student import Student

Tensor: TypeAlias = torch.Tensor
Batches: TypeAlias = Iterable[tuple[Tensor, Tensor]]
"""What enters the quantized window and what leaves the float one, [b, S, hidden] each; they can be
gone through more than once."""

_DIVERGED = 10
"""A batch whose loss is so many times what it was at the start is not coming back."""


@dataclass(frozen=True, eq=False)
class Learned:
    """What the matrices of a window learned."""

    low_rank: Mapping[Reader, LowRank]
    loss_before: float
    """Relative squared error of the hidden states that leave the window, uncorrected: that of each
    token by its own square, and the mean of all tokens."""
    loss_learned: float
    """The same with the matrices beside the quantized weights; never above `loss_before`."""
    epochs: int
    """How many were gone through to their end."""
    diverged: bool
    """Whether the loss rose beyond bounds, or was not finite, and learning ended there."""

    def delta(self, reader: Reader) -> Tensor:
        """Return what to add to the weights [N, K] of a linear that learned."""
        return self.low_rank[reader].product()


def learn(
    student: Student,
    batches: Batches,
    settings: Correction,
    seed: int,
    advance: Callable[[float], None],
) -> Learned:
    """Learn A [r, K] and B [N, r] for each quantized linear, so that the window does as in float.

    Every batch is a step, in their order; `advance(1)` is called after each. The state at the end
    of the epoch of the least mean loss is kept if its loss, measured without steps in between, is
    less than at the start; else B stays 0.

    Source: Liu et al., QLLM, arXiv:2310.08041, section 4.2, and the authors' settings: AdamW
    without weight decay, a learning rate that falls to 0 in a line, no warm-up. Differs from the
    paper: the error of each token counts by its own square, since the next norm sees no more, and
    since a first token can be far larger than all others. Differs from their code:
    all is float32, where theirs multiplies in bfloat16; gains of norms are not learned, nor a
    bias of the last norm; the best state is kept, not the last; a loss that diverges is stopped.
    """
    low_rank = _starting(student, settings.rank, seed)
    first = _Losses.of(student, low_rank, batches)
    if not low_rank:
        return Learned(low_rank, first.mean, first.mean, 0, diverged=False)
    descent = _Descent(student, low_rank, settings, first, advance)
    best, epochs = descent.run(batches)
    learned = _Losses.of(student, best, batches).mean
    if not learned < first.mean:
        best, learned = {reader: one.cleared() for reader, one in best.items()}, first.mean
    return Learned(best, first.mean, learned, epochs, diverged=epochs < settings.epochs)


@dataclass(frozen=True)
class _Losses:
    """Of each batch, its relative squared error and how many tokens it is the mean of."""

    values: tuple[float, ...]
    sizes: tuple[int, ...]

    @property
    def mean(self) -> float:
        pairs = zip(self.values, self.sizes, strict=True)
        return sum(value * size for value, size in pairs) / sum(self.sizes)

    @classmethod
    def of(cls, student: Student, low_rank: Mapping[Reader, LowRank], batches: Batches) -> _Losses:
        """Return those of a state, without a step."""
        values, sizes = [], []
        with torch.no_grad():
            for entering, target in batches:
                values.append(float(_loss(student, low_rank, entering, target)))
                sizes.append(target[..., 0].numel())
        assert sizes, "whoever learns has batches to learn from"
        return cls(tuple(values), tuple(sizes))


@dataclass(frozen=True, eq=False)
class _Descent:
    """The way down: it changes `low_rank`."""

    student: Student
    low_rank: Mapping[Reader, LowRank]
    settings: Correction
    first: _Losses
    """At the start."""
    advance: Callable[[float], None]

    def run(self, batches: Batches) -> tuple[dict[Reader, LowRank], int]:
        """Return the best state, and how many epochs were gone through."""
        steps = len(self.first.values) * self.settings.epochs
        matrices = [matrix for one in self.low_rank.values() for matrix in (one.a, one.b)]
        optimizer = AdamW(matrices, self.settings.learning_rate, weight_decay=0.0)
        schedule = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
        best, least = self._state(), math.inf
        for epoch in range(self.settings.epochs):
            values: list[float] = []
            for (entering, target), start in zip(batches, self.first.values, strict=True):
                loss = _loss(self.student, self.low_rank, entering, target)
                values.append(float(loss.detach()))
                if not values[-1] <= _DIVERGED * start:  # nan is not, either
                    return best, epoch
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                self.advance(1)
            mean = _Losses(tuple(values), self.first.sizes).mean
            if mean < least:
                best, least = self._state(), mean
        return best, self.settings.epochs

    def _state(self) -> dict[Reader, LowRank]:
        return {reader: one.copy() for reader, one in self.low_rank.items()}


def _starting(student: Student, rank: int, seed: int) -> dict[Reader, LowRank]:
    chance = torch.Generator().manual_seed(seed)
    return {
        reader: LowRank.starting(linear.quantized, rank, chance)
        for reader, linear in student.linears.items()
        if linear.quantizer.weights is not None
    }


def relative_error(found: Tensor, target: Tensor) -> Tensor:
    """Return the mean over all tokens of |found - target|^2 / |target|^2, for [b, S, hidden]."""
    apart = (found - target).square().sum(dim=-1)
    return (apart / target.square().sum(dim=-1).clamp(min=torch.finfo(apart.dtype).tiny)).mean()


def _loss(
    student: Student, low_rank: Mapping[Reader, LowRank], entering: Tensor, target: Tensor
) -> Tensor:
    leaving = student.leaving(entering, low_rank)
    return relative_error(leaving, target.to(leaving.device))
