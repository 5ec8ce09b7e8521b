"""A folder is judged by its own recipe, unless a threshold is given."""

from __future__ import annotations

import pytest

from castline.compiler.check.recorded_recipe import recorded_recipe, recorded_thresholds
from castline.compiler.recipes.load import load_recipe
from castline.errors import RecipeError

RECIPE = load_recipe("w4a16-rtn")
MANIFEST = {"recipe": RECIPE.model_dump(mode="json")}


def test_the_recipe_and_its_thresholds_are_read_back() -> None:
    assert recorded_recipe(MANIFEST) == RECIPE
    assert recorded_thresholds(MANIFEST) == RECIPE.gate


def test_a_threshold_is_put_in() -> None:
    found = recorded_thresholds(MANIFEST, ("gate.kl_divergence=0.01",))
    assert found == RECIPE.gate.model_copy(update={"kl_divergence": 0.01})


def test_an_export_is_judged_by_what_is_given_alone() -> None:
    assert recorded_recipe({"target": "export"}) is None
    found = recorded_thresholds({"target": "export"}, ("gate.top1_agreement=0.9",))
    assert found.top1_agreement == 0.9
    assert found.kl_divergence is None


def test_what_is_no_threshold_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'weights\.bits=8': only thresholds"):
        recorded_thresholds(MANIFEST, ("weights.bits=8",))
    with pytest.raises(RecipeError, match="there is no such field"):
        recorded_thresholds(MANIFEST, ("gate.kl=0.1",))
