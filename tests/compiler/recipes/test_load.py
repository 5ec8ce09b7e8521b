from __future__ import annotations

from pathlib import Path

import pytest

from castline.compiler.quant.scheme import (
    ActivationGranularity,
    ActivationScheme,
    WeightScheme,
)
from castline.compiler.recipes.load import load_recipe, preset_names, preset_text, recipe_yaml
from castline.errors import RecipeError

WRONG = """\
name: mine
weigths: null
weights:
  bits: 9
  group_sise: 64
  symmetric: yes please
head: int8
gate:
  perplexity_ratio: -1
  top1_agreement: 65
"""


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("float", None),
        ("w4a16-rtn", WeightScheme(bits=4, group_size=32, symmetric=False)),
        ("w4a16-rtn-sym", WeightScheme(bits=4, group_size=32, symmetric=True)),
        ("w8a16-rtn", WeightScheme(bits=8, group_size="per-channel", symmetric=True)),
    ],
)
def test_presets_say_what_their_names_say(name: str, scheme: WeightScheme | None) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.weights_scheme == scheme
    assert recipe.head_scheme is None


def test_every_preset_has_a_gate_and_a_description() -> None:
    for name in preset_names():
        recipe = load_recipe(name)
        assert recipe.description
        assert recipe.gate.perplexity_ratio is not None
        assert recipe.gate.top1_agreement is not None


def test_an_override_changes_one_field() -> None:
    recipe = load_recipe("w4a16-rtn", ["weights.group_size=64", "gate.kl_divergence=1e-1"])
    assert recipe.weights_scheme == WeightScheme(bits=4, group_size=64, symmetric=False)
    assert recipe.gate.kl_divergence == 0.1
    assert recipe.gate.perplexity_ratio == 1.4


def test_overrides_make_a_section_where_there_was_none() -> None:
    overrides = ["head.bits=8", "head.group_size=per-channel", "head.symmetric=true"]
    recipe = load_recipe("w4a16-rtn", overrides)
    assert recipe.head_scheme == WeightScheme(bits=8, group_size="per-channel", symmetric=True)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("activations.scales=static", "activations: a scale per token is known at run time only"),
        ("activations.range=mse", "activations: range is mse; dynamic ranges are by max"),
        ("smoothing.alpha=2", "smoothing.alpha: expected search, or a number from 0 to 1"),
        ("smoothing.sites=[norm, gate]", "smoothing.sites: expected a list of the sites"),
        ("keep=5", "keep: expected a list of patterns"),
        ("keep=[5]", "keep: expected a list of patterns"),
        ("kv_cache.granularity=per-token", "kv_cache.granularity: expected per-tensor"),
        ("calibration.samples=0", "calibration.samples: expected a whole number from 1"),
    ],
)
def test_what_does_not_go_together_is_said(override: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("w8a8-smoothquant", [override])
    assert str(caught.value).startswith(f"override {override!r}: {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("scaling.steps=0", "scaling.steps: expected a whole number from 1 to 1000"),
        ("scaling.sites=[norm, gate]", "scaling.sites: expected a list of the sites"),
        ("scaling.explicit=1", "scaling.explicit: expected true (where nothing can"),
        ("scaling.weight_aware=auto", "scaling.weight_aware: expected true (scales divided"),
        ("scaling.alpha=0.5", "scaling.alpha: there is no such field"),
        ("clipping.shrink=1", "clipping.shrink: expected a number between 0 and 1"),
        ("clipping.steps=1", "clipping.steps: expected a whole number from 2 to 1000"),
        ("clipping.leave=q_proj", "clipping.leave: expected a list of names of linears"),
        ("clipping=none", "clipping: expected a section with shrink and steps, or null"),
        ("rounding=stochastic", "rounding: expected nearest, or compensated"),
        ("algorithm=gptq", "algorithm: expected round-to-nearest, smoothquant, awq or as-stored"),
        ("weights=null", "algorithm is awq, which quantizes weights, and weights is null"),
        ("weights.group_size=per-tensor", "clipping, rounding compensated and scaling.explicit"),
    ],
)
def test_what_awq_cannot_do_is_said(override: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("w4a16-awq", [override])
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_awqs_sections_are_named_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\nalgorithm: awq\nweights: {bits: 4, group_size: 64, symmetric: true}\n"
        "scaling:\n  steps: 0\n  wieght_aware: true\nclipping:\n  shrink: 2\nrounding: up\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    expected = [
        "line 5: scaling.steps: expected a whole number from 1 to 1000",
        "line 6: scaling.wieght_aware: there is no such field (did you mean weight_aware?)",
        "line 8: clipping.shrink: expected a number between 0 and 1",
        "line 9: rounding: expected nearest, or compensated",
    ]
    for complaint, words in zip(str(caught.value).splitlines(), expected, strict=True):
        assert complaint.startswith(f"{file}, {words}")


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("w4a16-awq", WeightScheme(bits=4, group_size=128, symmetric=False)),
        ("w4a16-awq-sym", WeightScheme(bits=4, group_size=128, symmetric=True)),
        ("w3a16-awq", WeightScheme(bits=3, group_size=64, symmetric=False)),
    ],
)
def test_presets_of_awq_search_scales_ranges_and_codes(name: str, scheme: WeightScheme) -> None:
    recipe = load_recipe(name)
    assert recipe.weights_scheme == scheme
    assert recipe.activations_scheme is None
    assert (recipe.folds, recipe.searches_codes, recipe.needs_calibration) == (True, True, True)
    assert (recipe.scaling.steps, recipe.scaling.explicit) == (20, False)
    assert recipe.clipping is not None
    assert (recipe.clipping.shrink, recipe.clipping.steps) == (0.5, 20)


@pytest.mark.parametrize(
    ("level", "weights", "granularity", "dynamic"),
    [
        ("w8a8-smoothquant-o1", "per-tensor", "per-token", True),
        ("w8a8-smoothquant-o2", "per-tensor", "per-tensor", True),
        ("w8a8-smoothquant-o3", "per-tensor", "per-tensor", False),
        ("w8a8-smoothquant-static", "per-channel", "per-tensor", False),
        ("w8a8-smoothquant", "per-channel", "per-token", True),
    ],
)
def test_smoothquants_levels_are_those_of_the_papers_table_2(
    level: str, weights: str, granularity: ActivationGranularity, dynamic: bool
) -> None:
    recipe = load_recipe(level)
    assert recipe.folds
    assert recipe.weights is not None
    assert (recipe.weights.bits, recipe.weights.group_size) == (8, weights)
    assert recipe.activations_scheme == ActivationScheme(8, granularity, dynamic)


def test_an_override_can_remove_a_section() -> None:
    assert load_recipe("w4a16-rtn", ["weights=null"]).weights_scheme is None


def test_a_file_is_read_back_from_its_yaml(tmp_path: Path) -> None:
    recipe = load_recipe("w8a16-rtn", ["name=mine"])
    file = tmp_path / "mine.yaml"
    file.write_text(recipe_yaml(recipe))
    assert load_recipe(file) == recipe


def test_all_that_is_wrong_is_said_at_once_with_lines_and_near_misses(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(WRONG)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    complaints = str(caught.value).splitlines()
    expected = [
        "line 2: weigths: there is no such field (did you mean weights?)",
        "line 3: weights.group_size: is missing; expected 16, 32, 64, 128",
        "line 4: weights.bits: expected a whole number from 2 to 8; found 9.",
        "line 5: weights.group_sise: there is no such field (did you mean group_size?)",
        "line 6: weights.symmetric: expected true (no zero-points) or false; found yes please.",
        "line 7: head: expected keep, or a section with bits, group_size and symmetric; found int8",
        "line 9: gate.perplexity_ratio: expected the largest result / original perplexity",
        "line 10: gate.top1_agreement: expected the smallest share",
    ]
    assert len(complaints) == len(expected)
    for complaint, words in zip(complaints, expected, strict=True):
        assert complaint.startswith(f"{file}, {words}")


def test_a_wrong_override_is_named_as_it_was_given() -> None:
    with pytest.raises(RecipeError, match=r"override 'weights.bits=1': weights.bits: expected a w"):
        load_recipe("w4a16-rtn", ["weights.bits=1"])


@pytest.mark.parametrize("override", ["weights.bits", "=4"])
def test_an_override_needs_a_field_and_a_value(override: str) -> None:
    with pytest.raises(RecipeError, match="expected FIELD=VALUE"):
        load_recipe("w4a16-rtn", [override])


def test_an_unknown_preset_lists_the_presets_and_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"did you mean w4a16-rtn.*float, w3a16-awq, w4a16-awq"):
        load_recipe("w4a16-rtm")
    with pytest.raises(RecipeError, match="there is no recipe 'x'"):
        preset_text("x")


def test_a_missing_file_is_not_taken_for_a_preset(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml does not exist"):
        load_recipe(tmp_path / "mine.yaml")


def test_a_folder_and_a_binary_file_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read as a recipe: Is a directory"):
        load_recipe(tmp_path)
    (tmp_path / "model.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="expected YAML in UTF-8"):
        load_recipe(tmp_path / "model.yaml")
