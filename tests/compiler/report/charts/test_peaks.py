from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from castline.compiler.plan.decisions import PlannedSite
from castline.compiler.report.charts.peaks import outlier_ratio, peaks_chart, worst_sites


def site(name: str, peaks: list[float] | NDArray[np.float32], *, smoothed: bool) -> PlannedSite:
    values = np.asarray(peaks, np.float32)
    scale = np.full(values.size, 2.0) if smoothed else None
    weights = np.full(values.size, 0.5, np.float32)
    return PlannedSite(name, "", (), values, weights, scale, scale, None, None, None, None)


def test_a_site_stands_out_by_its_largest_channel_over_the_median_of_the_living() -> None:
    assert outlier_ratio(site("s", [0, 1, 2, 30, 3], smoothed=False)) == 30 / 2.5
    assert outlier_ratio(site("s", [0, 0], smoothed=False)) == 0


def test_a_third_of_the_places_is_for_outliers_that_remain() -> None:
    smoothed = [site(f"smoothed {peak}", [1, peak, 1], smoothed=True) for peak in range(9)]
    others = [site(f"other {peak}", [1, peak, 1], smoothed=False) for peak in range(9)]
    names = [one.site for one in worst_sites(smoothed + others, 3)]
    assert names == ["smoothed 8", "smoothed 7", "other 8"]
    assert [one.site for one in worst_sites(others, 2)] == ["other 8", "other 7"]
    assert len(worst_sites(smoothed, 6)) == 6


def test_the_worst_smoothed_sites_come_first() -> None:
    sites = [
        site("flat", [1, 1], smoothed=True),
        site("high", [1, 9, 1], smoothed=True),
        site("declined", [1, 900, 1], smoothed=False),
        site("dead", [0, 0], smoothed=True),
    ]
    assert [one.site for one in worst_sites(sites, 3)] == ["high", "flat", "declined"]
    assert [one.site for one in worst_sites(sites, 1)] == ["high"]


def test_shows_activations_and_weights_before_and_after() -> None:
    chart = peaks_chart("p", "Block 0", site("s", [1, 40, 0, 3], smoothed=True))
    assert chart.text == (
        "Activations peak at 40, after scaling 20; weights peak at 0.5, after scaling 1; "
        "4 channels."
    )
    assert ">after scaling<" in chart.svg


def test_without_a_scale_there_is_one_line() -> None:
    chart = peaks_chart("p", "Block 0", site("s", [1, 40, 0, 3], smoothed=False))
    assert chart.text == "Activations peak at 40; weights peak at 0.5; 4 channels."
    assert "after" not in chart.svg


@pytest.mark.parametrize("peaks", [[7.0], [0.0, 7.0, 0.0]])
def test_a_single_living_channel_is_a_dot(peaks: list[float]) -> None:
    assert "<use" in peaks_chart("p", "Block 0", site("s", peaks, smoothed=True)).svg


def test_of_many_channels_the_highest_of_neighbours_are_drawn() -> None:
    peaks = np.ones(20_000, np.float32)
    few, many = peaks[:300].copy(), peaks.copy()
    many[12_345] = 5_000
    wide = peaks_chart("p", "Block 0", site("s", many, smoothed=False))
    assert len(wide.svg) < len(peaks_chart("p", "", site("s", few, smoothed=False)).svg) + 4_000
    # The outlier survives: its place is on the line as near the top as the scale shows it.
    heights = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", wide.svg)]
    assert min(heights) < 40
