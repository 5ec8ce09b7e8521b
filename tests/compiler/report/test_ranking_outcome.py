"""The outcome of a ranking says which units are kept, and all of it as JSON."""

from __future__ import annotations

import json

from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.ranking_outcome import RankingOutcome, ranked_units
from castline.compiler.search.sensitivity import KeptUnits, Sensitivity, SensitivityRanking
from castline.compiler.search.units import Unit
from castline.compiler.search.variants import Prediction

WORST = Unit("model.layers.3", ("a", "b"), ("model.layers.3.*",), 100)
BEST = Unit("model.layers.1", ("c",), ("model.layers.1.*",), 50)
RANKING = SensitivityRanking(
    (Sensitivity(WORST, Prediction(0.5, 40.0)), Sensitivity(BEST, Prediction(0.01, 20.1))),
    20.0,
    Prediction(0.6, 45.0),
)


def test_units_keep_their_order_and_those_of_the_budget_are_marked() -> None:
    units = ranked_units(RANKING, KeptUnits((WORST,), Prediction(0.01, 20.1)))
    assert [(unit.name, unit.kept) for unit in units] == [
        ("model.layers.3", True),
        ("model.layers.1", False),
    ]
    assert (units[0].linears, units[0].kl_divergence, units[0].perplexity) == (("a", "b"), 0.5, 40)
    assert units[0].bytes_saved == 100


def test_without_a_budget_nothing_is_marked() -> None:
    assert not any(unit.kept for unit in ranked_units(RANKING, None))


def test_json_has_the_recipe_and_every_unit() -> None:
    outcome = RankingOutcome(
        source="model",
        recipe=load_recipe("w8a16-rtn"),
        by="layer",
        text="shipped",
        tokens=10,
        units=ranked_units(RANKING, None),
        perplexity_original=20.0,
        perplexity_quantized=45.0,
        kl_divergence_quantized=0.6,
        budget=None,
        perplexity=None,
        kl_divergence=None,
        seconds=1.0,
    )
    document = json.loads(json.dumps(outcome.to_json()))
    assert document["recipe"]["name"] == "w8a16-rtn"
    assert document["units"][1]["linears"] == ["c"]
    assert document["perplexity_quantized"] == 45.0
