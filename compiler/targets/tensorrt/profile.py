"""Choose the input shapes an engine accepts, and those it is tuned for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple, Self

import onnx_ir as ir

from castline.compiler.targets.tensorrt.reading import read_graph
from castline.compiler.targets.tensorrt.shape_flags import Shapes
from castline.errors import TargetError
from castline.exporters.names import PAST_PREFIX


class Range(NamedTuple):
    """The smallest, the most likely and the largest size of one dimension."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return f"{self.min} to {self.max}" if self.min != self.max else f"{self.max}"


BATCH = Range(1, 1, 4)
ENCODER_BATCH = Range(1, 8, 32)  # texts are encoded many at a time
SEQUENCE = Range(1, 128, 512)
PAST = Range(0, 256, 1024)
_NO_PAST = Range(0, 0, 0)
_PAST_AXIS = 2  # of [batch, heads, past, width]


@dataclass(frozen=True)
class Profile:
    """The sizes an engine accepts: rows, new tokens in a row, and tokens in the cache.

    Raises:
        TargetError: a range is empty, its `opt` is outside of it, or a size is too small.
    """

    batch: Range = BATCH
    sequence: Range = SEQUENCE
    past: Range = PAST

    def __post_init__(self) -> None:
        wrong = [
            f"{field.name} = {tuple(sizes)}"
            for field, sizes, smallest in zip(
                fields(self), (self.batch, self.sequence, self.past), (1, 1, 0), strict=True
            )
            if not smallest <= sizes.min <= sizes.opt <= sizes.max
        ]
        if wrong:
            raise TargetError(
                f"engine profile: {'; '.join(wrong)}: expected min <= opt <= max, "
                "at least 1 for batch and sequence and 0 for past"
            )

    @property
    def total(self) -> Range:
        """The sizes of the attention mask: cached and new tokens."""
        return Range(*(past + new for past, new in zip(self.past, self.sequence, strict=True)))

    def clipped(self, max_position_embeddings: int) -> Self:
        """Return the profile without the sizes that a model of so many positions cannot reach."""
        return replace(
            self,
            sequence=_clipped(self.sequence, max_position_embeddings),
            past=_clipped(self.past, max_position_embeddings - 1),
        )


def phases(profile: Profile, *, cached: bool) -> tuple[Profile, ...]:
    """Return the profiles an engine is tuned for: prefill first, then decode of one token a row.

    Without a cache, or where a row never is or always is one token, there is one phase only.
    """
    one = Range(1, 1, 1)
    if not cached or profile.sequence.min > 1 or profile.sequence == one:
        return (profile,)
    prefill = replace(profile, past=profile.past._replace(opt=profile.past.min))
    return prefill, replace(profile, sequence=one)


def model_shapes(model: Path, profile: Profile) -> tuple[dict[str, Shapes], ...]:
    """Return the shapes of every input of the saved `model`, one mapping for each phase.

    Raises:
        TargetError: an input is not a decoder's, or its fixed size contradicts the profile.
    """
    return phase_shapes(read_graph(model).graph.inputs, profile, model)


def phase_shapes(
    inputs: Sequence[ir.Value], profile: Profile, model: Path
) -> tuple[dict[str, Shapes], ...]:
    """Return the shapes of `inputs`, one mapping for each phase; without past where there is none.

    No more new tokens are accepted than a fixed cache has room for.

    Raises:
        TargetError: as `model_shapes`.
    """
    cached = is_cached(inputs)
    fitting = profile if cached else replace(profile, past=_NO_PAST)
    for room in _rooms(inputs):
        fitting = fitting.clipped(room)
    return tuple(input_shapes(inputs, phase, model) for phase in phases(fitting, cached=cached))


def input_shapes(inputs: Iterable[ir.Value], profile: Profile, model: Path) -> dict[str, Shapes]:
    """Return for each input its shapes under `profile`; `model` is named in errors.

    Raises:
        TargetError: names every input that does not fit, and why.
    """
    shapes: dict[str, Shapes] = {}
    wrong: list[str] = []
    for value in inputs:
        try:
            shapes[str(value.name)] = _shapes(value, profile)
        except _ContradictionError as error:
            wrong.append(f"{value.name}: {error}")
    if wrong:
        raise TargetError(f"{model} and the engine profile do not agree. " + "; ".join(wrong))
    return shapes


class _ContradictionError(Exception):
    """An input that the profile does not fit; becomes a part of one TargetError."""


# What each dimension of an input is; an empty word is a size the model fixes.
_ROLES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"input_ids|position_ids|token_type_ids"), ("batch", "sequence")),
    (re.compile(r"inputs_embeds"), ("batch", "sequence", "")),
    (re.compile(r"attention_mask"), ("batch", "total")),
    (re.compile(r"past_key_values\.\d+\.(key|value)"), ("batch", "", "past", "")),
    (re.compile(r"write_indices"), ("batch",)),
)
# Where a cache has a fixed capacity, the model fixes these and the profile has no say.
_FIXED_BY_CAPACITY = ("past", "total")


def roles_of(name: str, rank: int) -> tuple[str, ...]:
    """Return what each dimension of an input is: batch, sequence, past, total, or "" for fixed."""
    return next((roles for known, roles in _ROLES if known.fullmatch(name)), ("",) * rank)


def _rooms(inputs: Iterable[ir.Value]) -> set[int]:
    """Return how many tokens caches of a fixed capacity hold."""
    pasts = (value for value in inputs if str(value.name).startswith(PAST_PREFIX))
    sizes = (value.shape[_PAST_AXIS] for value in pasts if value.shape is not None)
    return {size for size in sizes if isinstance(size, int)}


def is_cached(inputs: Iterable[ir.Value]) -> bool:
    """Return whether there are keys and values of past tokens among the inputs of a graph."""
    return any(str(value.name).startswith(PAST_PREFIX) for value in inputs)


def _shapes(value: ir.Value, profile: Profile) -> Shapes:
    if value.shape is None:
        raise _ContradictionError("it has no shape; export the model with the shapes of its inputs")
    sizes = [size if isinstance(size, int) else None for size in value.shape]
    roles = roles_of(str(value.name), len(sizes))
    if len(roles) != len(sizes):
        raise _ContradictionError(f"it has {len(sizes)} dimensions, expected {len(roles)}")
    ranges = [
        _range(axis, role, size, profile)
        for axis, (role, size) in enumerate(zip(roles, sizes, strict=True))
    ]
    return Shapes(*(tuple(sizes) for sizes in zip(*ranges, strict=True)))


def _range(axis: int, role: str, size: int | None, profile: Profile) -> Range:
    if not role:
        if size is None:
            raise _ContradictionError(
                f"dimension {axis} is open and the profile has no range for it"
            )
        return Range(size, size, size)
    if size is not None and role in _FIXED_BY_CAPACITY:
        return Range(size, size, size)
    wanted: Range = getattr(profile, role)
    if size is not None and (wanted.min, wanted.max) != (size, size):
        raise _ContradictionError(
            f"dimension {axis} is fixed at {size}, the profile asks for {role} {wanted}; "
            f"export it open, or give a profile with {role} fixed at {size}"
        )
    return wanted


def _clipped(sizes: Range, largest: int) -> Range:
    return Range(*(min(size, largest) for size in sizes))
