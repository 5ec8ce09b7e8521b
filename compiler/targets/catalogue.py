"""List the targets, and give one the options it has."""

from __future__ import annotations

from dataclasses import replace

from castline.compiler.targets.onnx import Onnx
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.target import Target
from castline.compiler.targets.tensorrt.edition import TENSORRT, TENSORRT_RTX
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.target import TensorRT
from castline.errors import TargetError

_KNOWN = (Onnx(), OnnxRuntime(), TensorRT(TENSORRT_RTX), TensorRT(TENSORRT))
TARGETS: tuple[Target, ...] = _KNOWN


def target_named(name: str, options: TargetOptions | None = None) -> Target:
    """Return the target of that name, with what was chosen of it.

    Raises TargetError that lists all targets if there is none, or for options it does not have.
    """
    for target in _KNOWN:
        if target.name != name:
            continue
        chosen = options or TargetOptions()
        refuse_options(name, chosen, engine=isinstance(target, TensorRT))
        return replace(target, options=chosen)
    raise TargetError(
        f"There is no target {name!r}. Targets: {', '.join(t.name for t in TARGETS)}."
    )


def refuse_options(name: str, options: TargetOptions, *, engine: bool) -> None:
    """Raise TargetError for options that only other targets have; `engine`: it makes one."""
    if not engine and options.plugins != "auto":
        raise TargetError(
            f"--plugins {options.plugins} is for the tensorrt and tensorrt-rtx targets, not {name}."
        )
    if not engine and options.engine != EngineOptions():
        raise TargetError(
            "Shapes, GPUs and builder flags are of engines, and the target "
            f"{name} has none. Use --target tensorrt-rtx or tensorrt, or leave them out."
        )
    in_graph = options.kv_cache != "growing" or options.logits != "all"
    if in_graph and name not in (target.name for target in _KNOWN):
        raise TargetError(
            f"--kv-cache and --logits are forms of a graph, and the target {name} writes a "
            "checkpoint. Leave them out, or use another target."
        )
    if name != "onnxruntime" and options.provider != "cpu":
        raise TargetError(
            f"--provider {options.provider} is for the onnxruntime target, not {name}."
        )
