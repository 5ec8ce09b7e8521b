"""A checkpoint's layers are ranked, and the recipe that keeps a budget can be compiled by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from castline.compiler.plan.store import read_plan
from castline.compiler.ranking import Question, rank_model
from castline.compiler.recipes.load import load_recipe, recipe_yaml
from castline.compiler.recipes.recipe import Recipe
from castline.errors import RecipeError


@pytest.fixture(scope="module")
def recipe(source: str, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A coarse one, on what the float model itself would say: any other predicts it worse."""
    model = AutoModelForCausalLM.from_pretrained(source)
    torch.manual_seed(0)
    said = model.generate(torch.tensor([[1]]), max_length=400, do_sample=True, temperature=0.3)
    text = tmp_path_factory.mktemp("said") / "text.txt"
    text.write_text(" ".join(f"w{token - 3}" for token in said[0].tolist() if token >= 3))
    changes = {
        "weights": "{bits: 3, group_size: per-tensor, symmetric: true}",
        "calibration": f"{{text: {text}, samples: 4, length: 32}}",
    }
    return load_recipe("w8a8-smoothquant-o3", [f"{name}={to}" for name, to in changes.items()])


def test_a_ranking_is_of_every_layer_on_some_of_the_samples(source: str, recipe: Recipe) -> None:
    found = rank_model(source, recipe=recipe, question=Question(samples=2))
    assert {unit.name for unit in found.units} == {"model.layers.0", "model.layers.1"}
    harm = [unit.kl_divergence for unit in found.units]
    assert harm == sorted(harm, reverse=True)
    assert found.tokens == 2 * 31
    assert found.recipe == recipe
    assert (found.budget, found.perplexity, found.kept) == (None, None, ())
    assert 0 < harm[0] < found.kl_divergence_quantized


def test_a_budget_gives_a_recipe_that_keeps_the_worst_in_float(
    source: str, recipe: Recipe, tmp_path: Path
) -> None:
    plan = tmp_path / "plan"
    whole = rank_model(source, recipe=recipe, question=Question("linear"), plan=plan)
    assert len(read_plan(plan).blocks) == 2
    budget = (whole.perplexity_quantized / whole.perplexity_original) ** 0.5
    question = Question("linear", budget)
    found = rank_model(source, recipe=recipe, question=question, plan=plan)
    assert found.perplexity is not None
    assert found.perplexity <= budget * found.perplexity_original
    kept = {name for unit in found.kept for name in unit.linears}
    assert {name for unit in found.units for name in unit.linears if found.recipe.keeps(name)} == (
        kept
    )
    file = tmp_path / "mixed.yaml"
    file.write_text(recipe_yaml(found.recipe))
    mixed = load_recipe(file)
    again = rank_model(source, recipe=mixed, question=Question("linear", samples=1))
    assert {unit.name for unit in again.units} == {
        unit.name for unit in found.units if not unit.kept
    }


@pytest.mark.parametrize("budget", [0.99, float("nan")])
def test_a_budget_below_the_original_is_refused(budget: float) -> None:
    with pytest.raises(RecipeError, match=r"expected at least 1, such as 1\.02"):
        Question(budget=budget)
