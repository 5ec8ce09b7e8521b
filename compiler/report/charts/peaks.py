"""Draw the largest values of each channel at a site, before and after scaling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from castline.compiler.plan.decisions import PlannedSite
from castline.compiler.quant.arrays import Array
from castline.compiler.report.charts.canvas import LINES, Chart, chart, logarithmic
from castline.compiler.report.numbers import significant
from castline.compiler.report.quantization import smoothed_peaks, smoothed_weight_peaks

_MOST_POINTS = 256  # a point a unit of width; more would be bytes that nobody sees


def worst_sites(sites: Sequence[PlannedSite], most: int) -> tuple[PlannedSite, ...]:
    """Return up to `most` sites whose largest channel stands out most from the others.

    The smoothed ones come first; a third of the places is for sites that are not smoothed, where
    the outliers remain. Sites where all is zero are left out.
    """
    ranked = sorted((site for site in sites if site.peaks.any()), key=outlier_ratio, reverse=True)
    smoothed = [site for site in ranked if site.channel_scale is not None]
    others = [site for site in ranked if site.channel_scale is None]
    places = max(most - most // 3, most - len(others))
    first = smoothed[:places]
    return (*first, *others[: most - len(first)])


def outlier_ratio(site: PlannedSite) -> float:
    """Return the largest peak over the median of the channels that are not zero."""
    peaks = site.peaks[site.peaks > 0]
    return float(peaks.max() / np.median(peaks)) if peaks.size else 0.0


def peaks_chart(name: str, title: str, site: PlannedSite) -> Chart:
    """Return the peaks of what is read at `site`, and below them those of the weights."""
    folded = site.channel_scale is not None
    after = smoothed_peaks(site) if folded else None
    weights_after = smoothed_weight_peaks(site) if folded else None
    text = (
        f"{_change('Activations', site.peaks, after)}; "
        f"{_change('weights', site.weight_peaks, weights_after)}; {site.peaks.size} channels."
    )

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _panel(upper, "activation", site.peaks, after)
        _panel(lower, "weight", site.weight_peaks, weights_after)
        lower.set_xlabel("channel")
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", ncols=2)

    return chart(name, title, text, draw, height=3.1)


def _panel(axes: Axes, label: str, before: Array, after: Array | None) -> None:
    logarithmic(axes)
    axes.set_ylabel(label)
    _line(axes, before, "before" if after is not None else "peak", LINES[1])
    if after is not None:
        _line(axes, after, "after scaling", LINES[0])
    axes.set_xlim(0, before.size - 1 or 1)


def _line(axes: Axes, peaks: Array, label: str, colour: str) -> None:
    channels, highest = _thinned(peaks)
    positive = highest > 0  # a dead channel has no place on a logarithmic scale
    marker = "o" if positive.sum() == 1 else None
    axes.plot(
        channels[positive],
        highest[positive],
        color=colour,
        label=label,
        linewidth=0.9,
        marker=marker,
    )


def _thinned(peaks: Array) -> tuple[Array, Array]:
    """Return channels and peaks, of neighbours the highest where there are too many to show."""
    width = -(-peaks.size // _MOST_POINTS)
    padded = np.full(-(-peaks.size // width) * width, -np.inf)
    padded[: peaks.size] = peaks
    groups = padded.reshape(-1, width)
    return groups.argmax(axis=1) + width * np.arange(len(groups)), groups.max(axis=1)


def _change(what: str, before: Array, after: Array | None) -> str:
    then = "" if after is None else f", after scaling {significant(float(after.max()))}"
    return f"{what} peak at {significant(float(before.max()))}{then}"
