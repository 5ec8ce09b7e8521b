from __future__ import annotations

import numpy as np

from castline.compiler.graph.folds.site import Consumer, FoldPlan, Site
from castline.compiler.report.fold_table import fold_table, layer_ranges


def site(
    layer: int, *linears: str, reason: str | None = None, scales: int = 8, channels: int = 8
) -> Site:
    path = f"model.layers.{layer}"
    entries = np.arange(channels) % scales
    return Site(
        value=f"/{path}/norm/RMSNormalization_output_0",
        producer=f"{path}.norm.weight",
        kind="norm gain",
        consumers=tuple(Consumer(f"{path}.{name}", "", entries) for name in linears),
        edits=(),
        scales=scales,
        reason=reason,
    )


def rows_of(*sites: Site) -> list[dict[str, object]]:
    return [row.to_json() for row in fold_table(FoldPlan(sites, {}))]


def test_what_differs_in_its_layer_alone_is_one_row() -> None:
    (row,) = rows_of(site(0, "q.weight", "k.weight"), site(1, "q.weight", "k.weight"))
    assert row == {
        "layers": [0, 1],
        "site": "model.layers.*/norm/RMSNormalization",
        "producer": "model.layers.*.norm.weight",
        "kind": "norm gain",
        "consumers": ["model.layers.*.q.weight", "model.layers.*.k.weight"],
        "channels": 8,
        "scales": 8,
        "reason": None,
    }


def test_what_differs_in_more_has_rows_of_its_own() -> None:
    rows = rows_of(
        site(0, "q.weight"),
        site(1, "q.weight", reason="model.layers.1.add reads it"),
        site(2, "q.weight", scales=4),
        site(3, "q.weight", reason="model.layers.3.add reads it"),
        site(4, "fused.weight"),
    )
    assert [row["layers"] for row in rows] == [[0], [1, 3], [2], [4]]
    assert rows[1]["reason"] == "model.layers.*.add reads it"
    assert rows[2]["scales"] == 4


def test_experts_are_not_taken_for_layers() -> None:
    (row,) = rows_of(site(3, "experts.down_proj"), site(7, "experts.down_proj"))
    assert row["layers"] == [3, 7]


def test_a_site_outside_the_layers_has_none() -> None:
    head = Site(
        "/norm/Mul_output_0",
        None,
        "",
        (Consumer("lm_head.weight", "", np.zeros(2)),),
        (),
        0,
        "tied",
    )
    (row,) = rows_of(head)
    assert row["layers"] == []
    assert row["producer"] is None


def test_layers_are_told_as_ranges() -> None:
    assert layer_ranges((0, 1, 2, 4, 6, 7)) == "0-2, 4, 6-7"
    assert layer_ranges(()) == "-"
