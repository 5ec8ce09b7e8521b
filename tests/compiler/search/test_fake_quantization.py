"""Torch rounds weights and activations to the very numbers that numpy's codes stand for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from castline.compiler.quant.activations import dequantize_activations, quantize_activations
from castline.compiler.quant.round_to_nearest import dequantize, quantize
from castline.compiler.quant.scheme import (
    ActivationScheme,
    GroupSize,
    Method,
    QuantParameters,
    RangeMethod,
    WeightScheme,
)
from castline.compiler.search.fake_quantization import (
    fake_quantized_activations,
    fake_quantized_weights,
)

RANDOM = np.random.default_rng(0)
GROUPS: tuple[GroupSize, ...] = (16, 128, "per-channel", "per-tensor")
METHODS: tuple[Method, ...] = ("max", "percentile", "mse", "entropy")
WEIGHT_SCHEMES = [
    WeightScheme(bits, group, symmetric, RangeMethod(method))
    for bits, group, symmetric, method in itertools.product(
        (2, 4, 7), GROUPS, (True, False), METHODS
    )
    if method != "entropy" or not isinstance(group, int)
] + [
    WeightScheme(4, group, True, RangeMethod(method), two_level=True)
    for group, method in itertools.product((16, 128), METHODS[:3])
]
DYNAMIC = [
    ActivationScheme(bits, granularity, dynamic=True, symmetric=symmetric)
    for bits, granularity, symmetric in itertools.product(
        range(2, 9), ("per-token", "per-tensor"), (True, False)
    )
]


def heavy(*shape: int) -> np.ndarray:
    """Return numbers of which a few lie far out."""
    return RANDOM.standard_t(3, shape).astype(np.float32)


def rounded(weight: np.ndarray, scheme: WeightScheme) -> np.ndarray:
    return dequantize(quantize(weight.T, scheme)).T


@pytest.mark.parametrize("scheme", WEIGHT_SCHEMES, ids=str)
def test_weights_are_those_of_the_stored_codes(scheme: WeightScheme) -> None:
    # 256 has all groups, 48 has that of 16 at most, and 17 and 100 have none.
    for shape in ((12, 256), (7, 48), (5, 100), (1, 17)):
        weight = heavy(*shape)
        weight[0, :16] = 0
        found = fake_quantized_weights(torch.from_numpy(weight), scheme).numpy()
        np.testing.assert_array_equal(found, rounded(weight, scheme))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", ["per-channel", "per-tensor"])
def test_each_matrix_of_a_stack_is_quantized_alone(group: GroupSize, method: Method) -> None:
    scheme = WeightScheme(4, group, False, RangeMethod(method))
    stack = heavy(3, 6, 48) * np.array([1, 10, 0], np.float32)[:, None, None]
    found = fake_quantized_weights(torch.from_numpy(stack), scheme).numpy()
    np.testing.assert_array_equal(found, [rounded(matrix, scheme) for matrix in stack])


@pytest.mark.parametrize("scheme", DYNAMIC, ids=str)
def test_dynamic_activations_are_those_of_their_codes(scheme: ActivationScheme) -> None:
    x = heavy(2, 9, 33)
    x[0, 3] = 0  # a token of zeros
    x[1, 4] = np.abs(x[1, 4])
    expected = dequantize_activations(quantize_activations(x, scheme))
    found = fake_quantized_activations(torch.from_numpy(x), scheme)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_static_activations_are_those_of_their_codes(bits: int, symmetric: bool) -> None:
    scheme = ActivationScheme(bits, "per-tensor", dynamic=False, symmetric=symmetric)
    parameters = QuantParameters(float(np.float32(0.0371)), 0 if symmetric else -1)
    x = heavy(2, 9, 33)
    expected = dequantize_activations(quantize_activations(x, scheme, parameters))
    found = fake_quantized_activations(torch.from_numpy(x), scheme, parameters)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_what_is_given_stays_as_it_is() -> None:
    numbers = torch.from_numpy(heavy(8, 64))
    before = numbers.clone()
    for weights in WEIGHT_SCHEMES[::3]:
        fake_quantized_weights(numbers, weights)
    for activations in DYNAMIC:
        fake_quantized_activations(numbers, activations)
    fake_quantized_activations(
        numbers, ActivationScheme(8, "per-tensor", dynamic=False), QuantParameters(0.1, 0)
    )
    assert torch.equal(numbers, before)


def test_a_matrix_stored_the_other_way_round_is_quantized_along_the_same_inputs() -> None:
    stored = torch.from_numpy(heavy(64, 10))  # [K, N]
    for group in GROUPS:
        scheme = WeightScheme(4, group, True)
        straight = fake_quantized_weights(stored.T.contiguous(), scheme)
        assert torch.equal(fake_quantized_weights(stored.T, scheme), straight)


def test_the_result_has_the_type_of_what_is_given_and_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.from_numpy(heavy(4, 32)))
    assert not fake_quantized_weights(weight, WeightScheme(4, 32, True)).requires_grad
    assert not fake_quantized_activations(weight, DYNAMIC[0]).requires_grad
    for dtype in (torch.float16, torch.bfloat16):
        low = weight.detach().to(dtype)
        found = fake_quantized_weights(low, WeightScheme(8, 32, True))
        assert found.dtype == dtype
        exact = rounded(low.float().numpy(), WeightScheme(8, 32, True))
        assert torch.equal(found, torch.from_numpy(exact.copy()).to(dtype))
        assert fake_quantized_activations(low, DYNAMIC[-1]).dtype == dtype


def test_static_schemes_alone_have_parameters() -> None:
    x = torch.ones(1, 2)
    with pytest.raises(AssertionError):
        fake_quantized_activations(x, ActivationScheme(8, "per-tensor", dynamic=False))
    with pytest.raises(AssertionError):
        fake_quantized_activations(x, DYNAMIC[0], QuantParameters(1.0, 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scheme", [*WEIGHT_SCHEMES[::5], *DYNAMIC], ids=str)
def test_cuda_rounds_as_the_processor_does(scheme: WeightScheme | ActivationScheme) -> None:
    numbers = torch.from_numpy(heavy(24, 256))
    if isinstance(scheme, WeightScheme):
        pair = [fake_quantized_weights(each, scheme) for each in (numbers, numbers.cuda())]
    else:
        pair = [fake_quantized_activations(each, scheme) for each in (numbers, numbers.cuda())]
    assert torch.equal(pair[0], pair[1].cpu())
