"""QLLM's options are checked, and are the paper's where they are not given."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from castline.compiler.recipes.load import load_recipe
from castline.compiler.recipes.reassembly import Correction, Reassembly
from castline.errors import RecipeError


def test_the_defaults_are_the_papers() -> None:
    assert Correction() == Correction(rank=4, window=4, epochs=10, learning_rate=5e-4, batch=1)
    assert Reassembly() == Reassembly(
        ratio=0.2,
        steps=10,
        metrics=("merge-error", "signed-sums"),
        sites=("attention", "feed-forward", "down"),
    )


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("reassembly.ratio=0", "expected a number above 0, up to 0.5: how many channels"),
        ("reassembly.ratio=0.6", "expected a number above 0, up to 0.5: how many channels"),
        ("reassembly.steps=0", "expected a whole number from 1 to 1000: thresholds tried"),
        ("reassembly.steps=1001", "expected a whole number from 1 to 1000: thresholds tried"),
        ("reassembly.metrics=[]", "expected a list of the distances to merge by"),
        ("reassembly.metrics=[cosine]", "expected a list of the distances to merge by"),
        ("reassembly.sites=[]", "expected a list of the values to reassemble"),
        ("reassembly.sites=[down, output]", "expected a list of the values to reassemble"),
        ("reassembly.threshold=3", "there is no such field"),
        ("correction.rank=0", "expected a whole number from 1 to 256"),
        ("correction.rank=257", "expected a whole number from 1 to 256"),
        ("correction.rank=2.5", "expected a whole number from 1 to 256"),
        ("correction.window=0", "expected a whole number from 1 to 64"),
        ("correction.window=65", "expected a whole number from 1 to 64"),
        ("correction.epochs=0", "expected a whole number from 1 to 1000: times that all samples"),
        ("correction.learning_rate=0", "expected a number between 0 and 1, at the first step"),
        ("correction.learning_rate=1", "expected a number between 0 and 1, at the first step"),
        ("correction.learning_rate=fast", "expected a number between 0 and 1, at the first step"),
        ("correction.batch=0", "expected a whole number from 1 to 1024: samples of a step"),
    ],
)
def test_what_means_nothing_is_refused_with_what_is_expected(override: str, complaint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("w4a4-qllm", [override])
    field = override.partition("=")[0]
    assert f"{field}: {complaint}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [Reassembly, Correction])
def test_every_field_says_what_is_expected_there(model: type[BaseModel]) -> None:
    assert all(field.description for field in model.model_fields.values())
