"""Gather the second moments of what linears read: what an error of the weights costs at the output.

The squared error of the outputs of a linear [N, K] whose weights are off by E is the trace of
E S E^T, where S = x^T x is summed over all that it read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from castline.compiler.graph.folds.site import Site
from castline.compiler.search.linear_calls import Answer, LinearCall
from castline.compiler.search.observation import Reader

Tensor: TypeAlias = torch.Tensor

_CHANCE = 1.5
"""How much of what channels have in common is chance, by the root of channels over rows. Measured
on SmolLM2-135M: the errors on another text are least for it, for 16 rows as for 8192."""

_SPAN = 128  # rows of S that are summed at once, from the diagonal on: S is symmetric


@dataclass(eq=False)
class Moments:
    """Sums over every row x [K] that was read."""

    upper: Tensor
    """float32 [K, K]: of x^T x, but zero left of the diagonal's blocks."""
    magnitude: Tensor
    """float64 [K]: of |x|."""
    rows: int

    @property
    def second(self) -> Tensor:
        """Return the sum of x^T x, float32 [K, K], in memory of its own."""
        second = self.upper.clone()
        for begin in range(_SPAN, len(second), _SPAN):
            rows = slice(begin, begin + _SPAN)
            second[rows, :begin] = second[:begin, rows].T
        return second

    @property
    def expected(self) -> Tensor:
        """Return `second` as it would be by as many rows of other texts, in memory of its own.

        In a text, channels go together by chance, too, the more the fewer rows there are; codes
        that made up for one another by that would be worse than the nearest ones elsewhere. So the
        diagonal is raised, by its own values and by one row of the mean size, which stands for
        those channels that the text hardly reached.
        """
        expected = self.second
        own = expected.diagonal()
        mean = own.mean()
        own.mul_(1 + _CHANCE * math.sqrt(len(own) / self.rows)).add_(mean / self.rows)
        return expected


@dataclass(eq=False)
class SecondMoments:
    """Moments of what the linears of a block read; an answer for LinearCalls.

    Linears that read the same value are summed up once, by the first of them.
    """

    first_of: Mapping[str, str]
    """Name of a weight -> the one that reads the same rows and comes first."""
    answer: Answer
    """Asked for the product, and told of the call, too."""
    seen: dict[Reader, Moments] = field(default_factory=dict)

    def __call__(self, call: LinearCall) -> Tensor:
        """Add what is read, and answer as `answer` does."""
        if self.first_of.get(call.name) == call.name:
            self._add((call.name, call.expert), call.x.reshape(-1, call.x.shape[-1]))
        return self.answer(call)

    def of(self, name: str, expert: int | None) -> Moments | None:
        """Return what a matrix read; None where no token reached it."""
        return self.seen.get((self.first_of[name], expert))

    def _add(self, reader: Reader, x: Tensor) -> None:
        if not len(x):
            return
        x = x.float()
        known = self.seen.get(reader)
        if known is None:
            k = x.shape[1]
            known = Moments(x.new_zeros(k, k), x.new_zeros(k, dtype=torch.float64), 0)
            self.seen[reader] = known
        for begin in range(0, x.shape[1], _SPAN):
            rows = slice(begin, begin + _SPAN)
            known.upper[rows, begin:].addmm_(x[:, rows].T, x[:, begin:])
        known.magnitude += x.abs().sum(dim=0)
        known.rows += len(x)


def first_readers(sites: Iterable[Site]) -> dict[str, str]:
    """Return {weight: the first weight that reads the same rows}.

    Linears of a site do, but for stacks of experts, each of which reads what is sent to it.
    """
    first: dict[str, str] = {}
    for site in sites:
        dense = [one.linear for one in site.consumers if one.linear.endswith(".weight")]
        for consumer in site.consumers:
            name = consumer.linear
            first.setdefault(name, dense[0] if name in dense else name)
    return first
