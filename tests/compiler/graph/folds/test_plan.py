"""Every architecture's folds: what they are, that they change nothing, and what others would do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import yaml

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.graph.folds.site import FoldPlan, Site

EXACT = 1e-10  # relative, in float64; they measure 4e-16 to 1e-14
HARM = 1e-3  # the least is a GELU that stands in between: 4e-2
VERDICTS: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("verdicts.yaml").read_text(encoding="utf-8")
)


def test_folding_every_site_changes_nothing(
    architecture: Any, double: Any, outputs: Any, edit_model: Any, scale_for: Any,
    worst_relative: Any, record_property: Any,
) -> None:  # fmt: skip
    plan = fold_sites(architecture.graph())
    model = double(architecture.model)
    expected = outputs(model)
    for site in plan.foldable:
        edit_model(model, site.edits, scale_for(site))
    worst = worst_relative(outputs(model), expected)
    record_property("architecture", architecture.name)
    record_property("folds", {site.value: site.reason for site in plan.sites})
    record_property("worst relative error", worst)
    assert plan.foldable
    assert worst < EXACT


def test_folding_a_declined_site_would_do_harm(
    architecture: Any, double: Any, outputs: Any, edit_model: Any, scale_for: Any,
    worst_relative: Any,
) -> None:  # fmt: skip
    plan = fold_sites(architecture.graph())
    declined = [site for site in plan.sites if not site.foldable and site.edits]
    expected = outputs(double(architecture.model)) if declined else {}
    for site in declined:
        model = double(architecture.model)
        edit_model(model, site.edits, scale_for(site))
        assert worst_relative(outputs(model), expected) > HARM, site.value


def test_every_architecture_has_its_verdicts(architecture: Any) -> None:
    assert verdicts(fold_sites(architecture.graph())) == VERDICTS[architecture.name]


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_half_precision_folds_alike(dtype: ir.DataType, architecture: Any) -> None:
    expected, found = fold_sites(architecture.graph()), fold_sites(architecture.graph(dtype))
    assert verdicts(found) == verdicts(expected)
    assert [site.scales for site in found.sites] == [site.scales for site in expected.sites]


def verdicts(plan: FoldPlan) -> dict[str, str]:
    """Return "producer > consumers" -> kind or reason; layers of one kind give the same."""
    return {
        f"{_short(site.producer)} > {' '.join(_short(c.linear) for c in site.consumers)}": (
            site.kind if site.foldable else f"declined: {_reason(site)}"
        )
        for site in plan.sites
    }


def _short(parameter: str | None) -> str:
    path = (parameter or "nothing").removesuffix(".weight")
    return re.sub(r"^.*\.\d+\.", "", path)


def _reason(site: Site) -> str:
    return re.sub(r" /\S+", "", str(site.reason))


def test_every_linear_belongs_to_one_site(architecture: Any) -> None:
    plan = fold_sites(architecture.graph())
    for node, site in plan.site_of.items():
        assert node in {consumer.node for consumer in site.consumers}
    consumers = [consumer.node for site in plan.sites for consumer in site.consumers]
    assert sorted(consumers) == sorted(plan.site_of)


def test_linears_that_read_one_value_are_one_site(build: Any, proven: Any) -> None:
    nodes = "s = Add (x, x) a = MatMul (s, v) y = MatMul (s, w)"
    (site,) = proven(build(nodes, {"v": (8, 8), "w": (8, 8)}, gives=("y", "a"))).sites
    assert [consumer.linear for consumer in site.consumers] == ["v", "w"]
    assert site.reason == "a sum, such as the residual stream, produces it"


def test_the_nearest_of_two_gains_takes_the_scale(build: Any, proven: Any) -> None:
    nodes = "n = RMSNormalization <axis = -1> (x, g) m = Mul (n, k) y = MatMul (m, w)"
    (site,) = proven(build(nodes, {"g": (8,), "k": (8,), "w": (8, 8)})).sites
    assert site.producer == "k"


def test_a_gain_behind_a_linear_of_another_site_is_compensated_in_both(
    build: Any, proven: Any
) -> None:
    nodes = """
        n = RMSNormalization <axis = -1> (x, g)  a = MatMul (n, v)
        m = Mul (n, k)  y = MatMul (m, w)
    """
    shapes = {"g": (8,), "k": (8,), "v": (8, 8), "w": (8, 8)}
    first, second = proven(build(nodes, shapes, gives=("y", "a"))).sites
    assert [consumer.linear for consumer in first.consumers] == ["v", "w"]
    assert [consumer.linear for consumer in second.consumers] == ["w"]


def test_parts_of_one_linear_that_go_different_ways_are_different_sites(
    build: Any, proven: Any
) -> None:
    nodes = """
        h = MatMul (x, v)  a, b = Split <axis = 2, num_outputs = 2> (h)
        r = Relu (a)  y = MatMul (r, w)  g = Gelu (b)  z = MatMul (g, u)
    """
    shapes = {"v": (8, 12), "w": (6, 5), "u": (6, 5)}
    plan = proven(build(nodes, shapes, gives=("y", "z")))
    _, relu, gelu = plan.sites
    assert (relu.producer, gelu.producer) == ("v", "v")
    assert (relu.foldable, gelu.foldable) == (True, False)
    np.testing.assert_array_equal(relu.edits[0].index, [*range(6), *[-1] * 6])
