"""A quantizer rounds as the schemes of its recipe say, and leaves alone what has none."""

from __future__ import annotations

import pytest
import torch

from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.search.quantizer import Quantizer

PER_TENSOR = WeightScheme(8, "per-tensor", symmetric=True)
PER_TOKEN = ActivationScheme(8, "per-token", dynamic=True)
STATIC = ActivationScheme(8, "per-tensor", dynamic=False)
DYNAMIC = ActivationScheme(8, "per-tensor", dynamic=True)


def test_what_has_no_scheme_stays_the_same() -> None:
    x = torch.randn(3, 4)
    quantizer = Quantizer(None, None)
    assert quantizer.weight(x) is x
    assert quantizer.read(x, None) is x
    assert quantizer.expected_parameters(4.0) is None


def test_weights_are_rounded_to_the_grid_of_the_largest() -> None:
    weight = torch.tensor([[127.0, 0.4], [-1.6, 3.2]])
    found = Quantizer(PER_TENSOR, None).weight(weight)
    assert found.tolist() == [[127, 0], [-2, 3]]


def test_tokens_have_their_own_scales() -> None:
    x = torch.tensor([[127.0, 0.4], [1.27, 0.004]])
    found = Quantizer(None, PER_TOKEN).read(x, None)
    torch.testing.assert_close(found, torch.tensor([[127.0, 0.0], [1.27, 0.0]]))


def test_known_parameters_clip_and_round() -> None:
    x = torch.tensor([[1.0, 0.26, -9.0]])
    for scheme in (STATIC, DYNAMIC):
        found = Quantizer(None, scheme).read(x, QuantParameters(0.5, 0))
        assert found.tolist() == [[1, 0.5, -9]]
        assert Quantizer(None, scheme).read(100 * x, QuantParameters(0.5, 0)).tolist() == [
            [63.5, 26, -64]
        ]


def test_the_expected_range_of_a_tensor_is_its_peak_over_127() -> None:
    for scheme in (STATIC, DYNAMIC):
        assert Quantizer(None, scheme).expected_parameters(254.0) == QuantParameters(2.0, 0)
        assert Quantizer(None, scheme).expected_parameters(0.0) == QuantParameters(1.0, 0)


def test_tokens_expect_no_range() -> None:
    assert Quantizer(None, PER_TOKEN).expected_parameters(254.0) is None


@pytest.mark.parametrize("bits", [4, 8])
def test_with_zero_points_the_expected_range_holds_both_signs(bits: int) -> None:
    scheme = ActivationScheme(bits, "per-tensor", dynamic=False, symmetric=False)
    quantizer = Quantizer(None, scheme)
    parameters = quantizer.expected_parameters(6.0)
    assert parameters is not None
    found = quantizer.read(torch.tensor([[-6.0, 0.0, 6.0]]), parameters)
    assert found[0, 1] == 0
    torch.testing.assert_close(
        found, torch.tensor([[-6.0, 0.0, 6.0]]), atol=parameters.scale * 1.01, rtol=0
    )
