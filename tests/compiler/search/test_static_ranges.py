"""Static ranges are those of what was read, and scales of the cache those of its peaks."""

from __future__ import annotations

import pytest
import torch

from castline.compiler.quant.scheme import (
    ActivationScheme,
    CacheScheme,
    QuantParameters,
    RangeMethod,
)
from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.placed_channels import PlacedChannels
from castline.compiler.search.static_ranges import SiteRanges, cache_scales

STATIC = ActivationScheme(8, "per-tensor", dynamic=False)


def call(name: str, x: torch.Tensor) -> LinearCall:
    return LinearCall(name, None, x, torch.eye(x.shape[-1]), None, transposed=False)


def test_the_scale_is_the_peak_of_all_that_was_read_over_127() -> None:
    ranges = SiteRanges({"q": "x"}, STATIC)
    for x in (torch.tensor([[[1.0, -2.54]]]), torch.tensor([[0.5, 1.0]]), torch.ones(0, 2)):
        answer = ranges(call("q", x))
        assert torch.equal(answer, x)
    (found,) = ranges.parameters().values()
    assert found.scale == pytest.approx(2.54 / 127, rel=1e-6)
    assert found.zero_point == 0


def test_each_site_has_its_own_and_other_linears_count_for_none() -> None:
    ranges = SiteRanges({"q": "x", "o": "y"}, STATIC)
    for name, peak in (("q", 127.0), ("k", 1e6), ("o", 254.0)):
        ranges(call(name, torch.tensor([[peak, 0.0]])))
    assert ranges.parameters() == {"x": QuantParameters(1.0, 0), "y": QuantParameters(2.0, 0)}


def test_an_outlier_is_clipped_where_the_scheme_says_so() -> None:
    scheme = ActivationScheme(8, "per-tensor", dynamic=False, range=RangeMethod("percentile", 99.0))
    ranges = SiteRanges({"q": "x"}, scheme)
    x = torch.linspace(-1, 1, 1000).reshape(1, 1000)
    x[0, 0] = -1000
    ranges(call("q", x))
    assert ranges.parameters()["x"].scale == pytest.approx(0.99 / 127, rel=0.05)


def test_with_zero_points_the_range_is_from_the_least_to_the_largest() -> None:
    scheme = ActivationScheme(8, "per-tensor", dynamic=False, symmetric=False)
    ranges = SiteRanges({"q": "x"}, scheme)
    ranges(call("q", torch.tensor([[-51.0, 204.0]])))
    assert ranges.parameters()["x"] == QuantParameters(1.0, -128 + 51)


def test_the_range_of_a_reassembled_value_is_that_of_its_places() -> None:
    """Channel 0 stands at both places, halved; place 1 holds a quarter of channel 1 beside it."""
    places = PlacedChannels(
        gather=torch.tensor([0, 0]),
        scale=torch.tensor([0.5, 0.5]),
        place=torch.tensor([1]),
        channel=torch.tensor([1]),
        channel_scale=torch.tensor([0.25]),
    )
    ranges = SiteRanges({"q": "x", "o": "y"}, STATIC, {"q": places})
    x = torch.tensor([[100.0, -20.0], [-80.0, -56.0]])  # at the places: 50, 45; -40, -54
    for name in ("q", "o"):
        assert torch.equal(ranges(call(name, x)), x)
    found = ranges.parameters()
    assert found["x"].scale == pytest.approx(54 / 127, rel=1e-6)
    assert found["y"].scale == pytest.approx(100 / 127, rel=1e-6)


def test_nothing_is_counted_without_a_scheme() -> None:
    ranges = SiteRanges({}, None)
    assert torch.equal(ranges(call("q", torch.ones(1, 2))), torch.ones(1, 2))
    assert ranges.parameters() == {}


PEAKS = (torch.tensor([[1.27, 0.0], [2.54, 12.7]]), torch.tensor([[0.0, 0.0], [0.127, 0.0]]))


def test_a_cache_per_tensor_has_one_scale_for_keys_and_one_for_values() -> None:
    found = cache_scales(PEAKS, CacheScheme("per-tensor"))
    assert found.key.tolist() == pytest.approx([0.1])
    assert found.value.tolist() == pytest.approx([0.001])
    assert found.key.shape == found.value.shape == (1,)
    assert found.key.dtype == found.value.dtype == "float32"


def test_a_cache_per_channel_has_one_for_each_of_every_head_and_one_for_what_is_zero() -> None:
    found = cache_scales(PEAKS, CacheScheme("per-channel"))
    assert found.key.tolist() == [pytest.approx([0.01, 1.0]), pytest.approx([0.02, 0.1])]
    assert found.value.tolist() == [[1, 1], [pytest.approx(0.001), 1]]
    assert found.key.dtype == "float32"
