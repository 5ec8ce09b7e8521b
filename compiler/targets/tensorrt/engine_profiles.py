"""Choose the optimization profiles of an engine: the user's, or one for each phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.explicit_shapes import explicit_shapes
from castline.compiler.targets.tensorrt.profile import (
    BATCH,
    ENCODER_BATCH,
    is_cached,
    phase_shapes,
    roles_of,
)
from castline.compiler.targets.tensorrt.reading import read_graph
from castline.compiler.targets.tensorrt.shape_flags import Shapes


def engine_profiles(
    model: Path, options: EngineOptions, context_length: int
) -> tuple[dict[str, Shapes], ...]:
    """Return the shapes of every input of the saved `model`, one mapping for each profile.

    Raises:
        TargetError: the options contradict the model.
    """
    return profiles_of(read_graph(model).graph.inputs, options, context_length, model)


def profiles_of(
    inputs: Sequence[ir.Value], options: EngineOptions, context_length: int, model: Path
) -> tuple[dict[str, Shapes], ...]:
    """Return the shapes of `inputs`, one mapping for each profile; `model` is named in errors.

    Raises:
        TargetError: as `engine_profiles`.
    """
    if options.shapes:
        return tuple(explicit_shapes(inputs, given, model) for given in options.shapes)
    batch = BATCH if is_cached(inputs) else ENCODER_BATCH
    return phase_shapes(inputs, options.sizes.profile(context_length, batch), model)


def accepted(profiles: Sequence[Mapping[str, Shapes]]) -> str:
    """Return which sizes some profile takes, as "batch 1, sequence 1 to 512"."""
    words = []
    for role in ("batch", "sequence", "past"):
        sizes = [
            size
            for shapes in profiles
            for name, three in shapes.items()
            for size in _sizes(name, three, role)
        ]
        if any(sizes):
            least, most = min(sizes), max(sizes)
            words.append(f"{role} {most}" if least == most else f"{role} {least} to {most}")
    return ", ".join(words)


def _sizes(name: str, shapes: Shapes, role: str) -> list[int]:
    roles = roles_of(name, len(shapes.opt))
    if role not in roles:
        return []
    axis = roles.index(role)
    return [shapes.min[axis], shapes.max[axis]]
