from __future__ import annotations

import pytest

from castline.compiler.recipes.document import read_document, read_value
from castline.errors import RecipeError


def test_remembers_the_line_of_every_field() -> None:
    document = read_document("name: a\nweights:\n\n  bits: 4\n", "a.yaml")
    assert document.fields == {"name": "a", "weights": {"bits": 4}}
    assert document.lines == {("name",): 1, ("weights",): 2, ("weights", "bits"): 4}


def test_reads_an_exponent_as_a_number() -> None:
    assert read_value("1e-2") == 0.01


@pytest.mark.parametrize(
    ("text", "value"), [("64", 64), ("null", None), ("keep", "keep"), ("true", True), ("", None)]
)
def test_reads_a_value_as_yaml(text: str, value: object) -> None:
    assert read_value(text) == value


def test_names_the_line_of_broken_yaml() -> None:
    with pytest.raises(RecipeError, match=r"a\.yaml, line 2: not valid YAML"):
        read_document("name: a\n  weights: [\n", "a.yaml")


def test_refuses_a_field_given_twice() -> None:
    with pytest.raises(RecipeError, match=r"line 3: gate\.x is given twice, first on line 2"):
        read_document("gate:\n  x: 1\n  x: 2\n", "a.yaml")


@pytest.mark.parametrize(("text", "found"), [("", "an empty file"), ("- a\n", "a list")])
def test_refuses_what_has_no_fields(text: str, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        read_document(text, "a.yaml")


def test_constructs_no_python_objects() -> None:
    with pytest.raises(RecipeError, match="not valid YAML"):
        read_document("name: !!python/object/apply:os.getcwd []\n", "a.yaml")
