"""Read a YAML document and remember on which line every field stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from castline.errors import RecipeError

FieldPath = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: PyYAML follows 1.1, where `1e-2` is a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Document:
    """The fields of one YAML file and their lines, counted from 1."""

    fields: Mapping[str, object]
    lines: Mapping[FieldPath, int]


def read_document(text: str, source: str) -> Document:
    """Parse `text`; `source` names it in errors.

    Raises RecipeError when it is not YAML, not a mapping, or gives a field twice.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
        fields = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{_place(error, source)}: not valid YAML: {_problem(error)}") from error
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(
            f"{source}: expected fields such as 'name: my-recipe', found {_found(fields)}. "
            "`castline recipes w4a16-rtn` prints one to start from."
        )
    lines: dict[FieldPath, int] = {}
    for path, line in _field_lines(root, ()):
        if path in lines:
            raise RecipeError(
                f"{source}, line {line}: {'.'.join(path)} is given twice, first on line "
                f"{lines[path]}. Remove one of the two."
            )
        lines[path] = line
    return Document(fields, lines)


def read_value(text: str) -> object:
    """Return what YAML makes of a single value: `64` a number, `null` None, `keep` a string."""
    return yaml.load(text, Loader=_Loader)


def _field_lines(node: yaml.MappingNode, prefix: FieldPath) -> Iterator[tuple[FieldPath, int]]:
    for key, value in node.value:
        path = (*prefix, str(key.value))
        yield path, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _field_lines(value, path)


def _place(error: yaml.YAMLError, source: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{source}, line {error.problem_mark.line + 1}"
    return source


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return str(error.problem)
    return " ".join(str(error).split())


def _found(value: object) -> str:
    return "an empty file" if value is None else f"a {type(value).__name__}"
