"""AWQ's options are checked, and leave what its authors leave."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from castline.compiler.recipes.scaling import Clipping, Scaling


def test_the_defaults_are_the_authors() -> None:
    assert Scaling() == Scaling(
        steps=20, weight_aware=False, sites=("norm", "value", "up", "relu"), explicit=False
    )
    assert (Clipping().shrink, Clipping().steps) == (0.5, 20)
    assert {"q_proj", "k_proj", "query", "key", "Wqkv"} < set(Clipping().leave)
    assert not {"v_proj", "qkv_proj", "w1"} & set(Clipping().leave)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Scaling, {"steps": 0}),
        (Scaling, {"steps": 2.5}),
        (Scaling, {"sites": ["attention"]}),
        (Clipping, {"shrink": 0}),
        (Clipping, {"shrink": 1}),
        (Clipping, {"steps": 1}),
        (Clipping, {"leave": "q_proj"}),
        (Clipping, {"grid": 20}),
    ],
)
def test_what_means_nothing_is_refused(model: type[BaseModel], fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(fields)


@pytest.mark.parametrize("model", [Scaling, Clipping])
def test_every_field_says_what_is_expected_there(model: type[BaseModel]) -> None:
    assert all(field.description for field in model.model_fields.values())
