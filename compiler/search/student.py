"""Run a window of blocks with its linears quantized, and corrected, so that it can learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.search.linear_calls import LinearCall, LinearCalls
from castline.compiler.search.low_rank import LowRank
from castline.compiler.search.observation import Reader
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.straight_through import read_learning

Tensor: TypeAlias = torch.Tensor


class Places(Protocol):
    """What is done to a value before it is quantized, such as PlacedChannels."""

    def of_values(self, x: Tensor) -> Tensor:
        """Return what a linear reads, [..., K], for a value [..., K]; gradients flow through."""
        ...


@dataclass(frozen=True, eq=False)
class StudentLinear:
    """A quantized linear: y = Q(x') W^T + bias, where x' are the channels of x at their places."""

    quantized: Tensor
    """float32 [N, K]: what the codes of its weights stand for; its weights, if they stay float."""
    quantizer: Quantizer
    """Of what it reads; where its `weights` are None, the linear is not corrected."""
    channels: Places | None = None
    """None: each channel stays where it is."""
    parameters: QuantParameters | None = None
    """Of what it reads, where their scheme is static."""


@dataclass(frozen=True, eq=False)
class Student:
    """A window of blocks, quantized."""

    linears: Mapping[Reader, StudentLinear]
    """Matrices that are not in it are multiplied as the model does."""
    parameters: Mapping[str, Tensor]
    """The window's, as the model stores them; they stay as they are."""
    run: Callable[[Tensor], Tensor]
    """Runs the window's blocks on hidden states [b, S, hidden], so that gradients flow."""

    def leaving(self, entering: Tensor, low_rank: Mapping[Reader, LowRank]) -> Tensor:
        """Return what leaves the window, [b, S, hidden], its linears corrected by `low_rank`."""
        names = dict.fromkeys(name for name, _ in self.linears)
        parameters = {name: self.parameters[name] for name in names}
        with LinearCalls(parameters, _Answers(self.linears, low_rank)):
            return self.run(entering)


class _Answers:
    """Computes quantized, corrected linears; an answer for LinearCalls."""

    def __init__(
        self, linears: Mapping[Reader, StudentLinear], low_rank: Mapping[Reader, LowRank]
    ) -> None:
        self._linears, self._low_rank = linears, low_rank
        self._last: tuple[Tensor, StudentLinear, Tensor] | None = None
        """A value, a linear that read it, and what that made of it."""

    def __call__(self, call: LinearCall) -> Tensor:
        reader = (call.name, call.expert)
        if reader not in self._linears:
            return call.answer()
        linear = self._linears[reader]
        x = self._read(call.x, linear)
        product = call.answer(x, linear.quantized)
        return product + self._low_rank[reader].of(x) if reader in self._low_rank else product

    def _read(self, x: Tensor, linear: StudentLinear) -> Tensor:
        """Return the quantized value; one that q, k and v read is in memory once."""
        if self._last is not None and self._last[0] is x and _read_alike(self._last[1], linear):
            return self._last[2]
        placed = x if linear.channels is None else linear.channels.of_values(x)
        read = read_learning(linear.quantizer, placed, linear.parameters)
        self._last = (x, linear, read)
        return read


def _read_alike(one: StudentLinear, other: StudentLinear) -> bool:
    return (
        one.channels is other.channels
        and one.quantizer.activations == other.quantizer.activations
        and one.parameters == other.parameters
    )
