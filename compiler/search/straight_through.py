"""Quantize activations so that gradients pass, as if they had not been rounded."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from castline.compiler.quant.scheme import ActivationScheme, QuantParameters
from castline.compiler.search.fake_grids import static_grid
from castline.compiler.search.quantizer import Quantizer

Tensor: TypeAlias = torch.Tensor


def read_learning(quantizer: Quantizer, x: Tensor, parameters: QuantParameters | None) -> Tensor:
    """Return what `quantizer.read` returns for activations [..., K], bit for bit, with gradients.

    A gradient passes through unchanged, but not to what lies beyond the range of static
    `parameters`, which no small change would move. Source: Bengio et al., arXiv:1308.3432, the
    straight-through estimator. Differs from the code of the authors of QLLM: a dynamic range is
    taken as given, where theirs also has a gradient to the least and the greatest value of a token.
    """
    if quantizer.activations is None:
        return x
    rounded: Tensor = _StraightThrough.apply(x, quantizer, parameters)
    return rounded


class _StraightThrough(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, quantizer: Quantizer, parameters: QuantParameters | None
    ) -> Tensor:
        ctx.ranged = parameters is not None
        if parameters is not None and quantizer.activations is not None:
            ctx.save_for_backward(_within(x, quantizer.activations, parameters))
        return quantizer.read(x, parameters)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if not ctx.ranged:
            return gradient, None, None
        (within,) = ctx.saved_tensors
        return gradient * within, None, None


def _within(x: Tensor, scheme: ActivationScheme, parameters: QuantParameters) -> Tensor:
    """Return bool [..., K]: which values are nearest to a code that there is."""
    grid = static_grid(parameters, scheme, x.device)
    least, most = grid.code_range
    codes = torch.div(x, grid.scale).round_().add_(parameters.zero_point)
    return (codes >= least) & (codes <= most)
