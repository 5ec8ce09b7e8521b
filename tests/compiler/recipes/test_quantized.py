from __future__ import annotations

import pytest
from pydantic import BaseModel

from castline.compiler.quant.scheme import ActivationScheme, CacheScheme, RangeMethod, WeightScheme
from castline.compiler.recipes.calibration import Calibration
from castline.compiler.recipes.quantized import (
    QuantizedActivations,
    QuantizedCache,
    QuantizedWeights,
)
from castline.compiler.recipes.smoothing import Smoothing


def test_sections_say_what_schemes_say() -> None:
    weights = QuantizedWeights(bits=6, group_size="per-tensor", symmetric=True, range="mse")
    assert weights.scheme == WeightScheme(6, "per-tensor", True, RangeMethod("mse"))
    groups = QuantizedWeights(bits=4, group_size=64, symmetric=True, two_level=True)
    assert groups.scheme == WeightScheme(4, 64, True, two_level=True)
    activations = QuantizedActivations(
        bits=8,
        granularity="per-tensor",
        scales="static",
        symmetric=False,
        range="percentile",
        percentile=99.0,
    )
    expected = RangeMethod("percentile", 99.0)
    assert activations.scheme == ActivationScheme(8, "per-tensor", False, False, expected)
    assert QuantizedCache(granularity="per-channel").scheme == CacheScheme("per-channel")


def test_a_percentile_that_is_not_read_makes_no_other_scheme() -> None:
    weights = QuantizedWeights(bits=8, group_size=32, symmetric=True, percentile=90.0)
    assert weights.scheme == WeightScheme(8, 32, True)


@pytest.mark.parametrize(
    "section", [QuantizedWeights, QuantizedActivations, QuantizedCache, Smoothing, Calibration]
)
def test_every_field_says_what_is_expected_there(section: type[BaseModel]) -> None:
    assert all(field.description for field in section.model_fields.values())
