"""Read the shapes of an engine's inputs as trtexec takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from castline.errors import TargetError


class Shapes(NamedTuple):
    """The smallest, the most likely and the largest shape of one input."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


ShapeSet: TypeAlias = Mapping[str, Shapes]
"""The shapes of inputs, by name; those of one optimization profile."""

_FLAGS = ("--minShapes", "--optShapes", "--maxShapes")
_FORM = "expected name:1x128,name:1x1, such as --maxShapes=input_ids:4x512,attention_mask:4x1536"
_SIZES = re.compile(r"\d+(x\d+)*")


def shape_sets(
    smallest: Sequence[str], likeliest: Sequence[str], largest: Sequence[str]
) -> tuple[ShapeSet, ...]:
    """Return one set for each time that the flags were given; none for none.

    A flag that was left out takes the shapes of --optShapes, or of --maxShapes where that is it.

    Raises:
        TargetError: a flag cannot be read, the flags were not given equally often or do not name
            the same inputs, or a smallest shape is larger than a largest.
    """
    flags = zip(_FLAGS, (smallest, likeliest, largest), strict=True)
    given = {flag: texts for flag, texts in flags if texts}
    if not given:
        return ()
    counts = {len(texts) for texts in given.values()}
    if len(counts) > 1:
        often = ", ".join(f"{flag} {len(texts)} times" for flag, texts in given.items())
        raise TargetError(
            f"The flags of optimization profiles belong together, and were given {often}. Give "
            "each flag once for each profile."
        )
    read = {flag: [_read(flag, text) for text in texts] for flag, texts in given.items()}
    return tuple(
        _together({flag: sets[number] for flag, sets in read.items()}, number)
        for number in range(counts.pop())
    )


def _read(flag: str, text: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        name, colon, sizes = part.strip().rpartition(":")
        name = name.strip("'\"")
        if not (colon and name and _SIZES.fullmatch(sizes)):
            raise TargetError(f"{flag}={text}: {part!r} is no shape of an input; {_FORM}.")
        if name in shapes:
            raise TargetError(f"{flag}={text}: {name} is named twice.")
        shapes[name] = tuple(map(int, sizes.split("x")))
    return shapes


def _together(flags: Mapping[str, dict[str, tuple[int, ...]]], number: int) -> ShapeSet:
    names = {flag: sorted(shapes) for flag, shapes in flags.items()}
    if any(named != next(iter(names.values())) for named in names.values()):
        listed = "; ".join(f"{flag} {', '.join(named)}" for flag, named in names.items())
        raise TargetError(f"Profile {number}: the flags name other inputs: {listed}.")
    smallest, likeliest, largest = (flags.get(flag) for flag in _FLAGS)
    opt = likeliest or largest or smallest
    assert opt is not None, "the caller found a flag that was given"
    low, high = smallest or opt, largest or opt
    shapes = {name: Shapes(low[name], opt[name], high[name]) for name in opt}
    wrong = [name for name, three in shapes.items() if not _ordered(three)]
    if wrong:
        raise TargetError(
            f"Profile {number}: of {', '.join(wrong)} the sizes do not rise from --minShapes by "
            "--optShapes to --maxShapes, dimension by dimension."
        )
    return shapes


def _ordered(shapes: Shapes) -> bool:
    if len({len(shape) for shape in shapes}) > 1:
        return False
    return all(low <= likely <= high for low, likely, high in zip(*shapes, strict=True))
