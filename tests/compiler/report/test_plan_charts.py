from __future__ import annotations

from typing import TYPE_CHECKING

from castline.compiler.report.plan_charts import depth_charts, site_charts

if TYPE_CHECKING:
    from collections.abc import Callable

    from castline.compiler.plan.decisions import QuantPlan


def test_a_smoothed_plan_has_every_chart(plan_of: Callable[..., QuantPlan]) -> None:
    charts = {chart.title: chart for chart in depth_charts(plan_of(3))}
    assert list(charts) == [
        "Output error by layer",
        "Weight error by layer",
        "Largest activation by site",
        "Exponent of the scale by site",
        "Output error by site",
    ]
    # k_proj has no error and no line; down_proj is in float in the first block.
    assert charts["Output error by layer"].text == (
        "SQNR of outputs, dB, by block. q_proj: 28 to 30; down_proj: 25 to 25."
    )
    assert "q_proj, k_proj: 5 to 5; down_proj: 9 to 9" in charts["Largest activation by site"].text
    assert "q_proj, k_proj: 0.55 to 0.55." in charts["Exponent of the scale by site"].text


def test_what_was_not_done_has_no_chart(plan_of: Callable[..., QuantPlan]) -> None:
    charts = {chart.title: chart for chart in depth_charts(plan_of(2, smoothed=False))}
    assert list(charts) == [
        "Output error by layer",
        "Weight error by layer",
        "Largest activation by site",
    ]
    assert "q_proj, k_proj: 40 to 40" in charts["Largest activation by site"].text


def test_sites_with_the_worst_outliers_are_drawn_and_no_more(
    plan_of: Callable[..., QuantPlan],
) -> None:
    charts = site_charts(plan_of(8))
    assert len(charts) == 6
    assert charts[0].title == "Block 0: q_proj, k_proj"
    assert 'id="site-5-title"' in charts[5].svg
