"""Say how an engine reads a few tokens: under which profile, and with inputs of what shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.check.model_kind import NamedModel
from castline.compiler.check.original_runner import Feed
from castline.compiler.targets.tensorrt.engine_profiles import accepted
from castline.compiler.targets.tensorrt.profile import roles_of
from castline.compiler.targets.tensorrt.shape_flags import Shapes, ShapeSet
from castline.exporters.names import INPUT_IDS, PAST_PREFIX, WRITE_INDICES

Array: TypeAlias = NDArray[np.generic]

_BY_CAPACITY = ("past", "total")
_PAST_TOKENS = 2  # the axis of [batch, heads, past, width]


@dataclass(frozen=True)
class BuiltEngine:
    """The engine of a result, and what loads it."""

    path: Path
    is_rtx: bool
    """Whether TensorRT-RTX built it, and not TensorRT."""
    plugins: Path | None
    """The library that it needs."""
    profiles: tuple[ShapeSet, ...]
    """The shapes of its inputs under each optimization profile."""
    last_logits: bool = False
    """Whether it gives the logits of the last token of each row alone."""


@dataclass(frozen=True)
class Reading:
    """How an engine reads tokens behind none: `rows` of `length` each, under one profile."""

    profile: int
    rows: int
    length: int
    capacity: int | None = None
    """How many tokens its fixed caches hold; None for caches that grow, or none."""

    def tokens_of(self, tokens: Feed) -> dict[str, Array]:
        """Return the beginning of `tokens`, [batch, sequence] each, that is to be read."""
        return {
            name: np.ascontiguousarray(array[: self.rows, : self.length])
            for name, array in tokens.items()
        }

    def inputs_of(self, feed: Feed) -> dict[str, Array]:
        """Return the inputs of the engine, for what its graph is fed with in place of them.

        Fixed caches and their mask get zeros behind what the graph has, up to the capacity.
        """
        if self.capacity is None:
            return dict(feed)
        return {name: _widened(name, array, self.capacity) for name, array in feed.items()}


def built_engine(
    named: NamedModel, manifest: Mapping[str, object], plugins: Path | None
) -> BuiltEngine | str | None:
    """Return the engine of `named`, or why no command can run it; None where there is none.

    `manifest` is that of its folder, {} without one; `plugins` the library that it needs.
    """
    if named.engine is None:
        return None
    build = manifest.get("build")
    facts = build if isinstance(build, Mapping) else {}
    profiles = facts.get("profiles")
    if not isinstance(profiles, list) or not profiles:
        return (
            "no manifest.json beside it says what shapes it takes. Build it again with castline "
            "build"
        )
    if facts.get("weights_stripped") is True:
        return (
            f"it was stripped of its weights. Put them back first: castline build {named.folder} "
            f"--refit -o {named.folder}-whole"
        )
    return BuiltEngine(
        path=named.engine,
        is_rtx=facts.get("edition") != "tensorrt",
        plugins=plugins,
        profiles=tuple(_shape_set(profile) for profile in profiles),
        last_logits=facts.get("logits") == "last",
    )


def engine_reading(engine: BuiltEngine, tokens: Feed) -> Reading | str:
    """Return how `engine` reads as many of `tokens` [batch, sequence] as it takes, or why not.

    With fixed caches it is the fewest rows that it takes: each has caches of the whole capacity.
    """
    readings = [
        reading
        for number, shapes in enumerate(engine.profiles)
        if (reading := _reading(number, shapes, tokens[INPUT_IDS].shape)) is not None
    ]
    if readings:
        return max(readings, key=lambda reading: reading.rows * reading.length)
    batch, sequence = tokens[INPUT_IDS].shape
    return (
        f"it takes {accepted(engine.profiles)}, and the beginning of the text is batch {batch}, "
        f"sequence {sequence}, past 0. Build it for shapes that begin there: castline build --help"
    )


def _reading(number: int, shapes: ShapeSet, given: tuple[int, ...]) -> Reading | None:
    """Return how a profile reads the beginning of [batch, sequence] tokens; None if it cannot."""
    fewest, most = shapes[INPUT_IDS].min, shapes[INPUT_IDS].max
    capacity = _capacity(shapes)
    rows = given[0] if capacity is None else fewest[0]
    longest = most[1] if capacity is None else min(most[1], capacity)
    sizes = {"batch": min(rows, most[0]), "sequence": min(given[1], longest), "past": 0}
    sizes["total"] = sizes["sequence"]
    if capacity is not None:
        sizes |= dict.fromkeys(_BY_CAPACITY, capacity)
    # The text may have fewer rows than the engine takes at least.
    fits = sizes["batch"] <= given[0] and all(
        _fits(name, three, sizes) for name, three in shapes.items()
    )
    return Reading(number, sizes["batch"], sizes["sequence"], capacity) if fits else None


def _fits(name: str, shapes: Shapes, sizes: Mapping[str, int]) -> bool:
    roles = roles_of(name, len(shapes.min))
    ranges = zip(roles, shapes.min, shapes.max, strict=True)
    return all(low <= sizes[role] <= high for role, low, high in ranges if role)


def _capacity(shapes: ShapeSet) -> int | None:
    if WRITE_INDICES not in shapes:
        return None
    return next(three.max[_PAST_TOKENS] for name, three in shapes.items() if _is_past(name))


def _is_past(name: str) -> bool:
    return name.startswith(PAST_PREFIX)


def _widened(name: str, array: Array, capacity: int) -> Array:
    roles = roles_of(name, array.ndim)
    behind = [
        (0, capacity - size if role in _BY_CAPACITY else 0)
        for role, size in zip(roles, array.shape, strict=True)
    ]
    return np.pad(array, behind)


def _shape_set(profile: Mapping[str, list[list[int]]]) -> dict[str, Shapes]:
    """Read one profile as `engine_facts` writes it: [min, opt, max] by the name of the input."""
    return {
        name: Shapes(*(tuple(int(size) for size in shape) for shape in three))
        for name, three in profile.items()
    }
