from __future__ import annotations

import pytest

from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedLinear,
    QuantPlan,
)
from castline.compiler.report.linear_kinds import linear_kinds, within


def plan_with(*linears: str) -> QuantPlan:
    identity = PlanIdentity("", {}, CalibrationFacts("", "", 0, 0, 0, chat_template=False), "")
    planned = tuple(PlannedLinear(n, None, None, None, "", None, None, 0, 0) for n in linears)
    return QuantPlan(identity, {}, (PlannedBlock(3, "layers.3", planned, (), None),))


@pytest.mark.parametrize(
    ("linear", "kind"),
    [
        ("layers.3.self_attn.q_proj.weight", "q_proj"),
        ("layers.3.attention.output.dense.weight", "attention.output.dense"),
        ("layers.3.output.dense.weight", "output.dense"),
        ("layers.3.intermediate.dense.weight", "intermediate.dense"),
        ("layers.3.mlp.experts.gate_up_proj", "gate_up_proj"),
        ("layers.3.moe.experts.0.w1.weight", "w1"),
        ("layers.3.moe.experts.12.w1.weight", "w1"),
        ("shared.weight", "shared"),
    ],
)
def test_a_kind_is_the_shortest_end_that_is_its_own(linear: str, kind: str) -> None:
    plan = plan_with(
        "layers.3.self_attn.q_proj.weight",
        "layers.3.attention.output.dense.weight",
        "layers.3.intermediate.dense.weight",
        "layers.3.output.dense.weight",
        "layers.3.mlp.experts.gate_up_proj",
        "layers.3.moe.experts.0.w1.weight",
        "layers.3.moe.experts.12.w1.weight",
        "shared.weight",
    )
    assert linear_kinds(plan)[linear] == kind


def test_the_path_within_a_block() -> None:
    block = PlannedBlock(3, "layers.3", (), (), None)
    assert within(block, "layers.3.mlp.down_proj.weight") == "mlp.down_proj"
