"""Hold the two thin matrices whose product corrects the weights of a linear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch.nn import functional as F

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """A correction B A / r of weights [N, K].

    Source: Hu et al., LoRA, arXiv:2106.09685, section 4.1, with alpha = 1.
    """

    a: Tensor
    """float32 [r, K]."""
    b: Tensor
    """float32 [N, r]."""

    @classmethod
    def starting(cls, weight: Tensor, rank: int, chance: torch.Generator) -> LowRank:
        """Return a correction of `weight` [N, K] that is 0, on its device, and can learn.

        B is 0, and A is drawn as a linear's weights are: evenly, up to 1 / sqrt(K) (Kaiming's with
        a = sqrt(5)). `chance` is of the CPU, so that devices draw the same.
        """
        n, k = weight.shape
        reach = 1 / math.sqrt(k)
        a = torch.empty(rank, k).uniform_(-reach, reach, generator=chance).to(weight.device)
        b = torch.zeros(n, rank, device=weight.device)
        return cls(a.requires_grad_(), b.requires_grad_())

    def of(self, x: Tensor) -> Tensor:
        """Return what it adds to the product [..., N] of activations [..., K]."""
        return F.linear(F.linear(x, self.a), self.b) / self.rank

    def product(self) -> Tensor:
        """Return what it adds to the weights, [N, K]."""
        return (self.b @ self.a).detach() / self.rank

    def copy(self) -> LowRank:
        """Return the correction as it is now; it does not learn."""
        return LowRank(self.a.detach().clone(), self.b.detach().clone())

    def cleared(self) -> LowRank:
        """Return the correction that adds nothing."""
        return LowRank(self.a.detach(), torch.zeros_like(self.b))

    @property
    def rank(self) -> int:
        """r."""
        return len(self.a)
