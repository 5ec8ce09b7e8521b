from __future__ import annotations

from castline.compiler.report.charts.sizes import size_chart
from castline.compiler.report.inspection import KindSize


def test_each_kind_stands_beside_its_size_in_float32() -> None:
    chart = size_chart(
        (
            KindSize("attention", 1_000_000, 1_100_000, 8.8),
            KindSize("mlp", 3_000_000, 3_200_000, 8.5),
            KindSize("other", 0, 512, None),
        )
    )
    assert chart is not None
    assert chart.text == ("mlp: 3.2 MB, in float32 12 MB; attention: 1.1 MB, in float32 4 MB.")
    assert ">attention<" in chart.svg
    assert ">12 MB<" in chart.svg
    assert ">other<" not in chart.svg


def test_without_weights_there_is_no_chart() -> None:
    assert size_chart(()) is None
    assert size_chart((KindSize("other", 0, 512, None),)) is None
