"""Draw what a quantization plan decided, layer by layer, and the sites with the worst outliers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from castline.compiler.plan.decisions import PlannedLinear, PlannedSite, QuantPlan
from castline.compiler.report.charts.canvas import Chart
from castline.compiler.report.charts.depth import Points, depth_chart
from castline.compiler.report.charts.peaks import peaks_chart, worst_sites
from castline.compiler.report.linear_kinds import linear_kinds
from castline.compiler.report.plan_rows import site_titles
from castline.compiler.report.quantization import smoothed_peaks

_SITES_SHOWN = 6


def depth_charts(plan: QuantPlan) -> tuple[Chart, ...]:
    """Return errors, peaks and alphas over the depth of the model, as far as there are any."""
    charts = (
        depth_chart(
            "output-sqnr",
            "Output error by layer",
            "SQNR of outputs, dB",
            _by_linear(plan, lambda linear: linear.output_sqnr),
        ),
        depth_chart(
            "weight-sqnr",
            "Weight error by layer",
            "SQNR of weights, dB",
            _by_linear(plan, lambda linear: linear.weight_sqnr),
        ),
        _peaks_by_site(plan),
        depth_chart(
            "alpha",
            "Exponent of the scale by site",
            "alpha",
            _by_site(plan, lambda site: site.alpha),
        ),
        _errors_by_site(plan),
    )
    return tuple(chart for chart in charts if chart is not None)


def site_charts(plan: QuantPlan) -> tuple[Chart, ...]:
    """Return the peaks by channel of the sites whose outliers stand out most."""
    titles = site_titles(plan)
    block_of = {site.site: block.index for block in plan.blocks for site in block.sites}
    return tuple(
        peaks_chart(f"site-{number}", f"Block {block_of[site.site]}: {titles[site.site]}", site)
        for number, site in enumerate(worst_sites(plan.sites, _SITES_SHOWN))
    )


def _peaks_by_site(plan: QuantPlan) -> Chart | None:
    before = _by_site(plan, lambda site: float(site.peaks.max()))
    if all(site.channel_scale is None for site in plan.sites):
        return depth_chart(
            "peaks", "Largest activation by site", "largest activation", before, log=True
        )
    after = _by_site(plan, lambda site: float(smoothed_peaks(site).max()))
    return depth_chart(
        "peaks", "Largest activation by site", "largest activation", after, before, log=True
    )


def _errors_by_site(plan: QuantPlan) -> Chart | None:
    return depth_chart(
        "site-error",
        "Output error by site",
        "squared error / square",
        _by_site(plan, lambda site: site.error),
        _by_site(plan, lambda site: site.error_before),
        log=True,
    )


def _by_linear(
    plan: QuantPlan, figure: Callable[[PlannedLinear], float | None]
) -> dict[str, Points]:
    """Return a line for each kind of linear; of several in a block, as of experts, the least."""
    kinds = linear_kinds(plan)
    figures = (
        (kinds[linear.name], block.index, figure(linear))
        for block in plan.blocks
        for linear in block.linears
    )
    return _lines(figures, min)


def _by_site(plan: QuantPlan, figure: Callable[[PlannedSite], float | None]) -> dict[str, Points]:
    """Return a line for each kind of site; of several in a block the largest."""
    titles = site_titles(plan)
    figures = (
        (titles[site.site], block.index, figure(site))
        for block in plan.blocks
        for site in block.sites
    )
    return _lines(figures, max)


def _lines(
    figures: Iterable[tuple[str, int, float | None]], worst: Callable[[float, float], float]
) -> dict[str, Points]:
    """Put figures into lines; what was not measured is left out."""
    lines: dict[str, dict[int, float]] = {}
    for kind, block, figure in figures:
        if figure is not None:
            line = lines.setdefault(kind, {})
            line[block] = worst(line.get(block, figure), figure)
    return {kind: tuple(line.items()) for kind, line in lines.items()}
