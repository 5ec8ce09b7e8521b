from __future__ import annotations

import pytest

from castline.errors import UnsupportedArchitectureError
from castline.exporters.families import FAMILIES, family_of


def test_finds_the_family_of_a_model_type() -> None:
    assert family_of("qwen2").name == "llama"


def test_an_unknown_architecture_is_told_the_supported_ones() -> None:
    with pytest.raises(UnsupportedArchitectureError) as error:
        family_of("t5")
    assert "model_type is 't5'" in str(error.value)
    assert "llama, mistral, qwen2, qwen3" in str(error.value)


def test_no_model_type_belongs_to_two_families() -> None:
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))
