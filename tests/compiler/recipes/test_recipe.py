from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.recipes.load import load_recipe
from castline.compiler.recipes.quantized import QuantizedWeights
from castline.compiler.recipes.reassembly import Correction, Reassembly
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.recipes.thresholds import Thresholds


def test_sections_become_schemes_and_keep_becomes_none() -> None:
    recipe = Recipe(
        name="mine",
        weights=QuantizedWeights(bits=4, group_size=64, symmetric=False),
        head=QuantizedWeights(bits=8, group_size="per-channel", symmetric=True),
    )
    assert recipe.weights_scheme == WeightScheme(bits=4, group_size=64, symmetric=False)
    assert recipe.head_scheme == WeightScheme(bits=8, group_size="per-channel", symmetric=True)
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


def test_a_pattern_keeps_weights_by_their_names() -> None:
    recipe = Recipe(name="mine", weights=None, keep=("*.down_proj", "model.layers.0.*"))
    assert recipe.keeps("model.layers.3.mlp.down_proj.weight") == "*.down_proj"
    assert recipe.keeps("model.layers.0.mlp.up_proj.weight") == "model.layers.0.*"
    assert recipe.keeps("model.layers.10.mlp.up_proj.weight") is None


def test_a_search_depends_on_all_but_names_gate_head_and_embedding() -> None:
    recipe = Recipe(name="mine", weights=None)
    searched = set(recipe.searched)
    assert searched == {
        "algorithm", "weights", "activations", "attention", "kv_cache", "smoothing", "scaling",
        "clipping", "rounding", "reassembly", "correction", "calibration", "keep",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, False),
        ({"activations": {"bits": 8, "granularity": "per-token", "scales": "dynamic"}}, False),
        ({"activations": {"bits": 8, "granularity": "per-tensor", "scales": "static"}}, True),
        ({"kv_cache": {"granularity": "per-channel"}}, True),
        ({"algorithm": "smoothquant"}, True),
    ],
)
def test_numbers_from_a_text_are_needed_for_scales_and_static_ranges(
    fields: dict[str, object], needed: bool
) -> None:
    recipe = Recipe.model_validate({"name": "mine", "weights": None, **fields})
    assert recipe.needs_calibration is needed


INT4 = {"bits": 4, "group_size": 64, "symmetric": True}
PER_TOKEN = {"bits": 8, "granularity": "per-token", "scales": "dynamic"}


@pytest.mark.parametrize(
    ("fields", "searches", "needed"),
    [
        ({}, False, False),
        ({"clipping": {}}, True, True),
        ({"rounding": "compensated"}, True, True),
        ({"algorithm": "awq"}, False, True),
        ({"algorithm": "awq", "scaling": {"explicit": True}}, True, True),
        ({"scaling": {"explicit": True}}, False, False),
        ({"activations": PER_TOKEN, "reassembly": {}}, True, True),
        ({"correction": {}}, True, True),
    ],
)
def test_codes_are_searched_for_all_but_rounding_to_nearest_and_scales(
    fields: dict[str, object], searches: bool, needed: bool
) -> None:
    recipe = Recipe.model_validate({"name": "mine", "weights": INT4, **fields})
    assert recipe.searches_codes is searches
    assert recipe.needs_calibration is needed


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"weights": None, "clipping": {}}, "clipping and rounding say how codes of weights"),
        ({"weights": None, "rounding": "compensated"}, "and weights is null"),
        (
            {
                "algorithm": "awq",
                "scaling": {"explicit": True},
                "activations": PER_TOKEN,
            },
            "with activations in codes set it to false",
        ),
        ({"reassembly": {}}, "easier to quantize, and activations is null; expected a section"),
        ({"weights": None, "correction": {}}, "before they are quantized, and weights is null"),
        (
            {"algorithm": "awq", "scaling": {"explicit": True}, "correction": {}},
            "correction does not know scaling.explicit; set it to false",
        ),
        (
            {"weights": INT4 | {"two_level": True}},
            "expected a section of activations with scales dyn",
        ),
        (
            {
                "weights": INT4 | {"two_level": True},
                "activations": PER_TOKEN | {"granularity": "per-tensor", "scales": "static"},
            },
            "whose scales are taken at run time",
        ),
        ({"head": INT4 | {"two_level": True}}, "expected two_level false in them"),
        ({"embedding": INT4 | {"two_level": True}}, "expected two_level false in them"),
        ({"weights": INT4 | {"two_level": True, "bits": 8}}, "expected bits 4 and symmetric true"),
        (
            {"attention": {"bits": 8}, "kv_cache": {"granularity": "per-tensor"}},
            "attention and kv_cache both say how keys and values are quantized",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Recipe.model_validate({"name": "mine", "weights": INT4, **fields})


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ({}, False),
        ({"correction": {}}, False),
        ({"activations": PER_TOKEN, "reassembly": {}}, True),
        ({"clipping": {}}, True),
        ({"algorithm": "awq"}, True),
    ],
)
def test_moments_are_read_to_merge_channels_and_to_weigh_errors(
    fields: dict[str, object], reads: bool
) -> None:
    recipe = Recipe.model_validate({"name": "mine", "weights": INT4, **fields})
    assert recipe.reads_moments is reads


@pytest.mark.parametrize(
    ("name", "weights", "activations"),
    [
        ("w4a4-qllm", (4, False), (4, False)),
        ("w4a8-qllm", (4, False), (8, False)),
        ("w6a6-qllm", (6, True), (6, False)),
    ],
)
def test_presets_of_qllm_have_the_papers_grids_and_options(
    name: str, weights: tuple[int, bool], activations: tuple[int, bool]
) -> None:
    recipe = load_recipe(name)
    assert (recipe.algorithm, recipe.rounding) == ("smoothquant", "compensated")
    assert recipe.smoothing == load_recipe("w8a8-smoothquant").smoothing
    assert recipe.weights_scheme == WeightScheme(weights[0], "per-channel", weights[1])
    assert recipe.activations_scheme == ActivationScheme(
        activations[0], "per-token", dynamic=True, symmetric=activations[1]
    )
    assert recipe.reassembly == Reassembly()
    assert recipe.correction == Correction()
    assert recipe.needs_calibration


def test_the_preset_of_groups_differs_from_others_of_smoothquant_in_its_weights() -> None:
    recipe = load_recipe("w4a8-smoothquant-groups")
    assert recipe.weights_scheme == WeightScheme(4, 128, True, two_level=True)
    other = load_recipe("w8a8-smoothquant")
    assert recipe.activations_scheme == other.activations_scheme
    assert recipe.smoothing == other.smoothing
