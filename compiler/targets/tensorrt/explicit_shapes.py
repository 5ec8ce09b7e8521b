"""Complete the shapes that a user gives input by input, and hold them against the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from castline.compiler.targets.tensorrt.profile import (
    Profile,
    Range,
    input_shapes,
    is_cached,
    roles_of,
)
from castline.compiler.targets.tensorrt.shape_flags import Shapes, ShapeSet
from castline.errors import TargetError

_FLAGS = "--minShapes, --optShapes and --maxShapes"


def explicit_shapes(inputs: Sequence[ir.Value], given: ShapeSet, model: Path) -> dict[str, Shapes]:
    """Return the shapes of all `inputs` of a model, of which `given` has some.

    Batch and sequence are those of input_ids; the past is what attention_mask has beyond them, or
    what a past_key_values has. Inputs that were not given follow from these.

    Raises:
        TargetError: an input is unknown, its rank or a fixed size differs, or two of them disagree.
    """
    known = {str(value.name): value for value in inputs}
    wrong = [
        f"{name}: {reason}"
        for name, shapes in given.items()
        if (reason := _contradiction(known.get(name), shapes, known)) is not None
    ]
    if wrong:
        raise TargetError(f"{model}: {_FLAGS} do not fit its inputs. {'; '.join(wrong)}.")
    ranges = _ranges(given)
    profile = _profile(ranges, cached=is_cached(inputs))
    return {**input_shapes(inputs, profile, model), **given}


def _contradiction(
    value: ir.Value | None, shapes: Shapes, known: dict[str, ir.Value]
) -> str | None:
    if value is None:
        return f"the model has no such input, but {_some(known)}"
    assert value.shape is not None, "the inputs of our graphs have shapes"
    sizes = list(value.shape)
    if len(sizes) != len(shapes.opt):
        return f"it has {len(sizes)} dimensions, {len(shapes.opt)} were given"
    differing = [
        axis
        for axis, size in enumerate(sizes)
        if isinstance(size, int) and any(shape[axis] != size for shape in shapes)
    ]
    if differing:
        axis = differing[0]
        return f"dimension {axis} is fixed at {sizes[axis]}, {shapes.opt[axis]} was given"
    return None


def _some(known: dict[str, ir.Value]) -> str:
    names = list(known)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _ranges(given: ShapeSet) -> dict[str, Range]:
    """Return the sizes that the given shapes have for batch, sequence, past and total."""
    found: dict[str, tuple[str, Range]] = {}
    for name, shapes in given.items():
        for axis, role in enumerate(roles_of(name, len(shapes.opt))):
            sizes = Range(*(shape[axis] for shape in shapes))
            first, known = found.setdefault(role, (name, sizes))
            if role and known != sizes:
                raise TargetError(
                    f"{_FLAGS}: {first} has {role} {tuple(known)}, {name} has {tuple(sizes)}; they "
                    "are one size of the model."
                )
    return {role: sizes for role, (_, sizes) in found.items() if role}


def _profile(ranges: dict[str, Range], *, cached: bool) -> Profile:
    if "sequence" not in ranges:
        raise TargetError(f"{_FLAGS}: the shapes of input_ids are missing.")
    sequence = ranges["sequence"]
    if not cached:
        past = Range(0, 0, 0)
    elif "past" in ranges:
        past = ranges["past"]
    elif "total" in ranges:
        past = Range(*(all_ - new for all_, new in zip(ranges["total"], sequence, strict=True)))
    else:
        raise TargetError(
            f"{_FLAGS}: the length of the cache is missing; name attention_mask, whose second "
            "size is that of cached and new tokens together."
        )
    return Profile(batch=ranges["batch"], sequence=sequence, past=past)
