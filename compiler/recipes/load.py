"""Load a recipe: a preset by its name or a YAML file, with single fields overridden."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from castline.compiler.recipes.calibration import Calibration
from castline.compiler.recipes.document import FieldPath, read_document, read_value
from castline.compiler.recipes.quantized import (
    QuantizedActivations,
    QuantizedAttention,
    QuantizedCache,
    QuantizedWeights,
)
from castline.compiler.recipes.reassembly import Correction, Reassembly
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.recipes.scaling import Clipping, Scaling
from castline.compiler.recipes.smoothing import Smoothing
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import RecipeError

_PRESETS = files("castline.compiler.recipes") / "presets"
_SUFFIXES = (".yaml", ".yml")
_UNIONS = ("head", "embedding")
_SECTIONS: Mapping[str, type[BaseModel]] = {
    "weights": QuantizedWeights,
    "activations": QuantizedActivations,
    "attention": QuantizedAttention,
    "kv_cache": QuantizedCache,
    "smoothing": Smoothing,
    "scaling": Scaling,
    "clipping": Clipping,
    "reassembly": Reassembly,
    "correction": Correction,
    "calibration": Calibration,
    "head": QuantizedWeights,
    "embedding": QuantizedWeights,
    "gate": Thresholds,
}


@dataclass(frozen=True)
class _Override:
    path: FieldPath
    value: object
    text: str


def preset_names() -> tuple[str, ...]:
    """The names of the recipes that come with Castline, sorted."""
    names = (entry.name for entry in _PRESETS.iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def preset_text(name: str) -> str:
    """The YAML of one preset. Raises RecipeError, with the presets there are, for another name."""
    if name not in preset_names():
        raise RecipeError(_unknown_preset(name))
    return (_PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the preset or the file's recipe with every `field=value` of `overrides` put in.

    An override names a field by its path, such as `weights.group_size=64` or `head=keep`, and its
    value is read as YAML. Raises RecipeError, which lists every wrong field at once.
    """
    text, source = _text(name_or_path)
    document = read_document(text, source)
    return recipe_from(document.fields, source, overrides, document.lines)


def recipe_from(
    fields: Mapping[str, object],
    source: str,
    overrides: Sequence[str] = (),
    lines: Mapping[FieldPath, int] | None = None,
) -> Recipe:
    """Return the recipe of `fields` with `overrides` put in; errors name `source` and the line."""
    changes = [_override(text) for text in overrides]
    try:
        return Recipe.model_validate(_overridden(fields, changes))
    except ValidationError as error:
        raise RecipeError(_complaints(error, source, lines or {}, changes)) from error


def recipe_yaml(recipe: Recipe) -> str:
    """Return the recipe as YAML that load_recipe reads back, every field written out."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=1000)
    return str(text)


def _text(name_or_path: str | Path) -> tuple[str, str]:
    """The YAML and the name to give it in errors."""
    name = str(name_or_path)
    if name in preset_names():
        return preset_text(name), f"preset {name}"
    path = Path(name_or_path)
    if path.suffix not in _SUFFIXES and not path.exists() and len(path.parts) == 1:
        raise RecipeError(_unknown_preset(name))
    try:
        return path.read_text(encoding="utf-8"), name
    except FileNotFoundError as error:
        raise RecipeError(f"recipe file {name} does not exist. {_presets_there_are()}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{name}: not a recipe: expected YAML in UTF-8, found {error}") from error
    except OSError as error:
        raise RecipeError(f"{name}: cannot be read as a recipe: {error.strerror}") from error


def _unknown_preset(name: str) -> str:
    hint = _did_you_mean(name, preset_names())
    return f"there is no recipe {name!r}{hint}. {_presets_there_are()}"


def _presets_there_are() -> str:
    return f"Give one of {', '.join(preset_names())}, or the path of a YAML file."


def _override(text: str) -> _Override:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise RecipeError(
            f"override {text!r}: expected FIELD=VALUE, such as weights.group_size=64."
        )
    try:
        return _Override(tuple(name.strip().split(".")), read_value(value), text)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {text!r}: the value is not valid YAML.") from error


def _overridden(fields: Mapping[str, object], changes: Iterable[_Override]) -> Mapping[str, object]:
    result = copy.deepcopy(dict(fields))
    for change in changes:
        section = result
        for name in change.path[:-1]:
            below = section.get(name)
            # `weights: null` and `head: keep` become sections when one of their fields is set.
            section[name] = below = below if isinstance(below, dict) else {}
            section = below
        section[change.path[-1]] = change.value
    return result


def _complaints(
    error: ValidationError,
    source: str,
    lines: Mapping[FieldPath, int],
    changes: Iterable[_Override],
) -> str:
    """A line for everything that is wrong, in the order of the file."""
    overrides = {change.path: f"override {change.text!r}" for change in changes}
    complaints: list[tuple[int, str]] = []
    for one in error.errors():
        if one["type"] == "too_short" and one["input"]:
            continue  # its items are wrong, and complained of
        path = _field_path(one["loc"])
        line = lines.get(path) or lines.get(path[:-1]) or 0
        # What fields of a section say together is wrong since the last of them was changed.
        inside = [text for changed, text in overrides.items() if changed[:-1] == path]
        changed = overrides.get(path) or (inside[-1] if inside else None)
        place = changed or (f"{source}, line {line}" if line else source)
        complaint = _complaint(one["type"], path, one["input"], one["msg"])
        field = f"{'.'.join(path)}: " if path else ""
        complaints.append((line, f"{place}: {field}{complaint}"))
    # A field that takes one of two kinds of value is complained of once for each kind.
    once = dict.fromkeys(sorted(complaints, key=lambda one: one[0]))
    return "\n".join(text for _line, text in once)


def _field_path(place: Sequence[int | str]) -> FieldPath:
    """Return the field an error is about, without what pydantic adds: indices, kinds of a union."""
    names = [part for part in place if isinstance(part, str)]
    if not names:  # what fields of the recipe say together
        return ()
    if names[0] in _UNIONS:
        del names[1:2]  # "section" or "keep"
    return tuple(names[: 2 if names[0] in _SECTIONS else 1])


def _complaint(kind: str, path: FieldPath, found: object, message: str) -> str:
    if kind == "value_error":
        return message.removeprefix("Value error, ") + "."
    model = _model_at(path[:-1])
    if kind in ("extra_forbidden", "invalid_key"):
        hint = _did_you_mean(path[-1], model.model_fields)
        return f"there is no such field{hint}. Fields here: {', '.join(model.model_fields)}."
    expected = model.model_fields[path[-1]].description
    if kind == "missing":
        return f"is missing; expected {expected}."
    return f"expected {expected}; found {_as_yaml(found)}."


def _model_at(path: FieldPath) -> type[BaseModel]:
    return _SECTIONS[path[0]] if path else Recipe


def _as_yaml(value: object) -> str:
    text = str(yaml.safe_dump(value, default_flow_style=True, width=1000))
    return text.removesuffix("\n").removesuffix("\n...")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
