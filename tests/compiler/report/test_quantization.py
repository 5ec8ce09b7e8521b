from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from castline.compiler.report.quantization import (
    plan_json,
    sites_by_linear,
    smoothed_peaks,
    smoothed_weight_peaks,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from castline.compiler.plan.decisions import QuantPlan


def documented(plan: QuantPlan) -> Any:
    """Return the plan as a strict reader of JSON gets it."""
    return json.loads(json.dumps(plan_json(plan), allow_nan=False))


def test_says_which_text_and_checkpoint_the_numbers_come_from(
    plan_of: Callable[..., QuantPlan],
) -> None:
    document = documented(plan_of())
    assert document["checkpoint_sha256"] == "c" * 64
    assert document["calibration"]["samples"] == 8
    assert document["recipe"]["smoothing"] == {"alpha": 0.5}
    assert document["recipe"]["unlimited"] == "inf"


def test_a_linear_has_its_scheme_in_words_and_the_alpha_of_its_site(
    plan_of: Callable[..., QuantPlan],
) -> None:
    assert documented(plan_of(1))["linears"][0] == {
        "name": "model.layers.0.self_attn.q_proj.weight",
        "block": 0,
        "weights": "INT8, per channel, symmetric",
        "activations": "INT8, per token, dynamic, symmetric",
        "parameters": None,
        "kept": None,
        "weight_sqnr": 38.0,
        "output_sqnr": 30.0,
        "peak_before": 40.0,
        "peak_after": 5.0,
        "clipped": None,
        "unreached": [],
        "site": "/layers.0/norm",
        "alpha": 0.55,
    }


def test_a_linear_without_error_and_one_in_float(plan_of: Callable[..., QuantPlan]) -> None:
    _q, k, down = documented(plan_of(1))["linears"]
    assert k["output_sqnr"] == "inf"
    assert down["weights"] is None
    assert down["kept"] == "it reads 4,000 times the median"


def test_a_site_has_its_peaks_before_and_after(plan_of: Callable[..., QuantPlan]) -> None:
    norm, up = documented(plan_of(1))["sites"]
    assert (norm["peak_before"], norm["peak_after"]) == (40.0, 5.0)
    assert (norm["weight_peak_before"], norm["weight_peak_after"]) == (0.5, 2.0)
    assert (norm["error"], norm["error_before"]) == (0.001, 0.25)
    assert up["peak_after"] == up["peak_before"] == 9.0
    assert (up["inspected"], up["explicit"]) == (None, False)
    assert up["declined"] == "nothing takes the scale up"


def test_scales_of_the_cache_are_summed_up(plan_of: Callable[..., QuantPlan]) -> None:
    assert documented(plan_of(1))["cache_scales"] == [
        {
            "block": 0,
            "key": {"scales": 4, "least": 0.5, "most": 0.5},
            "value": {"scales": 1, "least": 0.25, "most": 0.25},
        }
    ]


def test_a_site_is_found_by_each_linear_that_reads_it(plan_of: Callable[..., QuantPlan]) -> None:
    plan = plan_of(1)
    norm, up = plan.sites
    assert sites_by_linear(plan) == {
        "model.layers.0.self_attn.q_proj.weight": norm,
        "model.layers.0.self_attn.k_proj.weight": norm,
        "model.layers.0.mlp.down_proj.weight": up,
    }


def test_activations_are_divided_by_the_scale_and_weights_multiplied(
    plan_of: Callable[..., QuantPlan],
) -> None:
    norm, up = plan_of(1).sites
    np.testing.assert_array_equal(smoothed_peaks(norm), [1, 5, 0, 2])
    np.testing.assert_array_equal(smoothed_weight_peaks(norm), [0.5, 2, 0.5, 0.5])
    np.testing.assert_array_equal(smoothed_peaks(up), up.peaks)
    np.testing.assert_array_equal(smoothed_weight_peaks(up), up.weight_peaks)
