"""Values that are reassembled are gathered by what reads them, corrections by their windows."""

from __future__ import annotations

import numpy as np

from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedCorrection,
    PlannedLinear,
    PlannedReassembly,
    PlannedSite,
    QuantPlan,
)
from castline.compiler.quant.channel_map import ChannelMap
from castline.compiler.report.reassembly_rows import (
    CorrectionRow,
    ReassemblyRow,
    correction_rows,
    reassembly_rows,
)

IDENTITY = PlanIdentity("c", {}, CalibrationFacts("shipped", "t", 1, 8, 0, False), "v")


def halved(channel: int, error: float) -> PlannedReassembly:
    """Return a reassembly of 4 channels: one stands at its place and at 3, and 2 joins 1."""
    gather = np.array([0, 1, 2, channel])
    scale = np.array([1, 0.5, 1, 0.5], np.float32)
    channels = ChannelMap(gather, scale, np.array([1]), np.array([2]), np.array([0.5], np.float32))
    return PlannedReassembly(channels, ("q", "k"), 2.0, "merge-error", error, 2 * error, None)


def planned(
    index: int, reassembly: PlannedReassembly | None, correction: PlannedCorrection | None = None
) -> PlannedBlock:
    names = tuple(f"layers.{index}.attn.{name}.weight" for name in ("q", "k"))
    linears = tuple(
        PlannedLinear(name, None, None, None, None, None, None, 1.0, 1.0) for name in names
    )
    peaks = np.ones(4, np.float32)
    site = PlannedSite(
        f"s{index}", "", names, peaks, peaks, None, None, None, None, None, None,
        reassembly=reassembly,
    )  # fmt: skip
    return PlannedBlock(index, f"layers.{index}", linears, (site,), None, correction=correction)


def test_a_row_has_the_medians_of_the_blocks_that_are_reassembled() -> None:
    blocks = (planned(0, halved(0, 0.1)), planned(1, None), planned(2, halved(1, 0.3)))
    (row,) = reassembly_rows(QuantPlan(IDENTITY, {}, blocks))
    assert row == ReassemblyRow("q, k", "0, 2", "1", "1", "0.4", "0.2")


def test_nothing_reassembled_or_learned_has_no_rows() -> None:
    plan = QuantPlan(IDENTITY, {}, (planned(0, None),))
    assert reassembly_rows(plan) == correction_rows(plan) == ()


def test_a_window_has_one_row_that_says_what_came_of_it() -> None:
    taken = PlannedCorrection(0, 2, 4.0, 1.0, 2.0, epochs=3, merged=True)
    left = PlannedCorrection(2, 1, 4.0, 3.0, 5.0, epochs=1, merged=False)
    none = PlannedCorrection(3, 1, 4.0, 4.0, 4.0, epochs=3, merged=False)
    blocks = tuple(planned(i, None, one) for i, one in enumerate((taken, taken, left, none)))
    plan = QuantPlan(IDENTITY, {"correction": {"epochs": 3}}, blocks)
    stopped = "left out, since the merged weights lost more; stopped in epoch 2, since the loss"
    assert correction_rows(plan) == (
        CorrectionRow("0-1", "4", "1", "2", "added to the weights"),
        CorrectionRow("2", "4", "3", "5", f"{stopped} diverged"),
        CorrectionRow("3", "4", "4", "4", "left out, since nothing was learned"),
    )
