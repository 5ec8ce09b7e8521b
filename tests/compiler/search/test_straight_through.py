"""Rounded activations pass gradients on, and are what they are without any."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from castline.compiler.quant.scheme import ActivationScheme, QuantParameters
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.straight_through import read_learning

RANDOM = np.random.default_rng(0)
DYNAMIC = [
    ActivationScheme(bits, granularity, dynamic=True, symmetric=symmetric)
    for bits, granularity, symmetric in itertools.product(
        (4, 6, 8), ("per-token", "per-tensor"), (True, False)
    )
]
STATIC = [
    ActivationScheme(4, "per-tensor", dynamic=False, symmetric=each) for each in (True, False)
]


def values(*shape: int) -> torch.Tensor:
    """Return numbers of which a few lie far out, and a token of zeros."""
    x = RANDOM.standard_t(3, shape).astype(np.float32)
    x[0] = 0
    return torch.from_numpy(x).requires_grad_()


@pytest.mark.parametrize("scheme", DYNAMIC, ids=str)
def test_dynamic_codes_are_the_quantizers_and_every_gradient_passes(
    scheme: ActivationScheme,
) -> None:
    x, quantizer = values(9, 33), Quantizer(None, scheme)
    read = read_learning(quantizer, x, None)
    assert torch.equal(read, quantizer.read(x, None))
    gradient = torch.randn(9, 33)
    read.backward(gradient)
    assert x.grad is not None
    assert torch.equal(x.grad, gradient)


@pytest.mark.parametrize("scheme", STATIC, ids=str)
def test_static_codes_are_the_quantizers(scheme: ActivationScheme) -> None:
    x, quantizer = values(9, 33), Quantizer(None, scheme)
    parameters = QuantParameters(0.137, 0 if scheme.symmetric else -3)
    assert torch.equal(read_learning(quantizer, x, parameters), quantizer.read(x, parameters))


def test_what_lies_beyond_a_static_range_gets_no_gradient() -> None:
    """Codes are -8 to 7 and the zero-point is -3: the grid goes from -5 to 10 in steps of 1."""
    quantizer = Quantizer(None, ActivationScheme(4, "per-tensor", dynamic=False, symmetric=False))
    x = torch.tensor([-6.0, -5.6, -5.4, 0.0, 10.4, 10.6, 12.0], requires_grad=True)
    read = read_learning(quantizer, x, QuantParameters(1.0, -3))
    assert read.tolist() == [-5, -5, -5, 0, 10, 10, 10]
    read.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_activations_that_stay_in_float_are_given_back() -> None:
    x = values(2, 3)
    assert read_learning(Quantizer(None, None), x, None) is x
