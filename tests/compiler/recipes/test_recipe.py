from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.recipe import QuantizedWeights, Recipe
from castline.compiler.recipes.thresholds import Thresholds


def test_sections_become_schemes_and_keep_becomes_none() -> None:
    recipe = Recipe(
        name="mine",
        weights=QuantizedWeights(bits=4, group_size=64, symmetric=False),
        head=QuantizedWeights(bits=8, group_size="per-channel", symmetric=True),
    )
    assert recipe.weights_scheme == WeightScheme(bits=4, group_size=64, symmetric=False)
    assert recipe.head_scheme == WeightScheme(bits=8, group_size=None, symmetric=True)
    assert recipe.embedding_scheme is None


def test_null_weights_are_no_scheme() -> None:
    assert Recipe(name="mine", weights=None).weights_scheme is None


def test_without_a_gate_nothing_is_limited() -> None:
    assert Recipe(name="mine", weights=None).gate == Thresholds()


def test_a_recipe_is_frozen() -> None:
    recipe = Recipe(name="mine", weights=None)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("model", [Recipe, QuantizedWeights, Thresholds])
def test_every_field_says_what_is_expected_there(model: type[BaseModel]) -> None:
    assert all(field.description for field in model.model_fields.values())
