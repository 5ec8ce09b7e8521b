"""Quantize one linear in torch as the graph will, and measure what that costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.search.fake_quantization import (
    fake_quantized_activations,
    fake_quantized_weights,
)

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True)
class Quantizer:
    """The schemes of a recipe."""

    weights: WeightScheme | None
    activations: ActivationScheme | None

    def weight(self, weight: Tensor) -> Tensor:
        """Return what the codes of a matrix [N, K] stand for."""
        return weight if self.weights is None else fake_quantized_weights(weight, self.weights)

    def read(self, x: Tensor, parameters: QuantParameters | None) -> Tensor:
        """Return what the codes of activations [..., K] stand for.

        `parameters` are those of a range that is known; None where tokens have their own.
        """
        if self.activations is None:
            return x
        scheme = replace(self.activations, dynamic=parameters is None)
        return fake_quantized_activations(x, scheme, parameters)

    def expected_parameters(self, peak: float) -> QuantParameters | None:
        """Return the parameters of activations up to `peak`; None where each token has its own.

        Dynamic scales of a whole tensor are those of the text it is part of, so that a few rows
        are quantized as they are among many.
        """
        scheme = self.activations
        if scheme is None or scheme.granularity == "per-token":
            return None
        least, most = scheme.code_range
        if scheme.symmetric:
            return QuantParameters(peak / most if peak > 0 else 1.0, 0)
        # Half of the range on each side of zero: the sign of what is read is not known by its peak.
        scale = 2 * peak / (most - least) if peak > 0 else 1.0
        return QuantParameters(scale, round((most + least) / 2))
