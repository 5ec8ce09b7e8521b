"""Show a checkpoint's tensors under the names and in the shapes of a model's own parameters.

Files keep the names of the release that wrote them. transformers renames, stacks and drops tensors
as it loads them; what is done here follows its own tables, without reading a weight.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from castline.errors import CheckpointError
from castline.exporters.assembly import Assembly, Described
from castline.exporters.checkpoint import Checkpoint, TensorSpec
from castline.exporters.leftovers import not_derived, of_heads, zero_biases
from castline.exporters.readers.converted import ConvertedReader, Made, Part
from castline.exporters.readers.converted_codes import ConvertedCodes
from castline.exporters.readers.tensors import named

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Specs: TypeAlias = Mapping[str, TensorSpec]


@dataclass(frozen=True)
class Conversion:
    """A checkpoint as a model names its parameters, and what of it the model has no place for."""

    checkpoint: Checkpoint
    heads: tuple[str, ...]
    """Tensors that were left out because they belong to heads on top of the model."""


def converted(checkpoint: Checkpoint, model: PreTrainedModel, shapes: Shapes) -> Conversion:
    """Return the checkpoint under the names of `model`, whose parameters may be without values.

    `shapes` are those of the whole model by name: parameters, tied ones under each of their names,
    and persistent buffers; `model` itself may be cut to some of its layers. Tensors that follow
    from the configuration are left out, and so are heads where `model` is a base model, and biases
    of zeros beside quantized weights. What else the model has no place for stays under the name it
    is stored by, for the caller to refuse.
    Raises one CheckpointError for all parameters that are stored twice or whose parts are not
    complete or do not go together.
    """
    names = _Names(model, shapes)
    found = _found(names, checkpoint.tensors)
    made: dict[str, Made] = {}
    problems = _Problems()
    for target, sources in found.by_target.items():
        made |= _made(names, target, sources, checkpoint.tensors, problems)
    problems.refuse(checkpoint.source)
    surplus = not_derived(model, found.without_place, checkpoint.tensors)
    heads = of_heads(model, surplus)
    left = heads + tuple(zero_biases(checkpoint, surplus))
    made |= {name: _as_stored(name, checkpoint.tensors) for name in surplus if name not in left}
    reader, codes = ConvertedReader(checkpoint, made), ConvertedCodes(checkpoint, made)
    return Conversion(replace(checkpoint, reader=reader, codes=codes), heads)


class _Names:
    """Where transformers puts a stored tensor, told by its name."""

    def __init__(self, model: PreTrainedModel, shapes: Shapes) -> None:
        mapping = get_model_conversion_mapping(model)
        self._renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
        converters = [each for each in mapping if isinstance(each, WeightConverter)]
        self._converters = converters
        self._prefix = model.base_model_prefix
        self._by_pattern = {p: each for each in converters for p in each.source_patterns}
        self.model = Described(model.config, shapes)

    def target(self, stored: str) -> tuple[str, str | None]:
        """Return the parameter that a tensor belongs to, and the converter's pattern it matched.

        The parameter need not be one of the model's. Without a pattern it is the tensor itself.
        """
        shapes = self.model.shapes
        name, pattern = rename_source_key(
            stored, self._renamings, self._converters, self._prefix, shapes
        )
        if name not in shapes and stored in shapes:
            return stored, None
        return name, pattern

    def assembly(self, target: str, pattern: str) -> Assembly:
        """Return how the tensors that match `pattern` become `target`."""
        return Assembly(self._by_pattern[pattern], target, self.model)


@dataclass
class _Found:
    """Stored tensors by what they are for, each list in natural order."""

    by_target: dict[str, dict[str | None, list[str]]] = field(default_factory=dict)
    without_place: dict[str, str] = field(default_factory=dict)
    """The name a tensor is stored by -> the name that transformers gives it."""


def _found(names: _Names, tensors: Specs) -> _Found:
    found = _Found()
    for stored in sorted(tensors, key=dot_natural_key):
        target, pattern = names.target(stored)
        if target not in names.model.shapes:
            found.without_place[stored] = stored if pattern else target
            continue
        patterns = found.by_target.setdefault(target, defaultdict(list))
        patterns[pattern].append(stored)
    return found


@dataclass
class _Problems:
    """What is wrong with the stored tensors, by sort."""

    missing: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)

    def refuse(self, source: str) -> None:
        """Raise one CheckpointError for all there is; return when there is nothing."""
        said = [
            f"{len(found)} {sort}: {named(found)}"
            for sort, found in (
                ("missing", self.missing),
                ("stored twice", self.twice),
                ("beyond what config.json describes", self.surplus),
                ("that do not go together", self.unfit),
            )
            if found
        ]
        if said:
            raise CheckpointError(
                f"{source}: the model's parameters cannot be put together from the tensors. "
                f"{'; '.join(said)}. Check that config.json belongs to these weights and that "
                "every shard is there, once."
            )


def _made(
    names: _Names,
    target: str,
    sources: Mapping[str | None, list[str]],
    specs: Specs,
    problems: _Problems,
) -> dict[str, Made]:
    """Return how `target`, and what comes with it, is made; nothing where that adds a problem."""
    whole = sources.get(None, [])
    parts = {pattern: stored for pattern, stored in sources.items() if pattern is not None}
    if len(whole) > 1 or (whole and parts):
        of_parts = [stored[0] for stored in parts.values()]
        problems.twice.append(f"{target} (as {' and as '.join([*whole, *of_parts])})")
        return {}
    if whole:
        return {target: _as_stored(whole[0], specs)}
    assembly = names.assembly(target, next(iter(parts)))
    if assembly.stacks and not _is_complete(names, assembly, parts, problems):
        return {}
    if odd := list(_odd_ones(parts, specs)):
        problems.unfit.extend(odd)
        return {}
    try:
        return assembly.made(parts, specs)
    except (RuntimeError, ValueError, IndexError) as error:  # what torch says of such shapes
        shapes = [f"{each[0]} is {list(specs[each[0]].shape)}" for each in parts.values()]
        problems.unfit.append(f"the parts of {target} ({', '.join(shapes)}: {error})")
        return {}


def _as_stored(stored: str, specs: Specs) -> Made:
    return Made(specs[stored], (Part((stored,)),))


def _is_complete(
    names: _Names, assembly: Assembly, parts: dict[str, list[str]], problems: _Problems
) -> bool:
    """Return whether a stack has a part for each entry of its first axis, and no other."""
    count = names.model.shapes[assembly.target][0]
    complete = True
    for pattern in assembly.converter.source_patterns:
        stored = parts.get(pattern, [])
        expected = _numbered(names, assembly.target, pattern, parts, count)
        missing = [name for name in expected if name not in stored]
        surplus = [name for name in stored if name not in expected]
        problems.missing.extend(missing)
        problems.surplus.extend(surplus)
        complete = complete and not missing and not surplus
    return complete


def _numbered(
    names: _Names, target: str, pattern: str, parts: Mapping[str, list[str]], count: int
) -> list[str]:
    """Return the names of a stack's parts, from 0 to `count` - 1, as the checkpoint writes them.

    The number that tells the parts apart is the one that can change while transformers still puts
    the tensor into `target`; the layer's cannot. Where a whole pattern is absent, its names follow
    from those of another.
    """
    for present, stored in parts.items():
        first = _with_ending(stored[0], present, pattern)
        if names.target(first) != (target, pattern):
            continue
        for numbered, following in _renumbered(first):
            if names.target(numbered.format(following)) == (target, pattern):
                return [numbered.format(number) for number in range(count)]
    return [f"{target} from {pattern}"]


def _with_ending(stored: str, present: str, pattern: str) -> str:
    """Return a name with the end of one pattern in place of another's, ".w3.weight" for ".w1."."""
    before, after = (each.rpartition("*")[2].replace("\\", "") for each in (present, pattern))
    return stored.removesuffix(before) + after


def _renumbered(stored: str) -> Iterator[tuple[str, int]]:
    """Yield each of the name's numbers plus one, and the name as a format with {} in its place."""
    steps = stored.replace("{", "{{").replace("}", "}}").split(".")
    for place, step in enumerate(steps):
        if step.isdigit():
            yield ".".join([*steps[:place], "{}", *steps[place + 1 :]]), int(step) + 1


def _odd_ones(parts: Mapping[str, Sequence[str]], specs: Specs) -> Iterator[str]:
    """Yield the tensors that differ in shape or dtype from most others of their pattern."""
    for stored in parts.values():
        usual, _ = Counter(specs[name] for name in stored).most_common(1)[0]
        for name in stored:
            if specs[name] != usual:
                yield f"{name} ({_described(specs[name])}, the others are {_described(usual)})"


def _described(spec: TensorSpec) -> str:
    return f"{spec.dtype} {list(spec.shape)}"
