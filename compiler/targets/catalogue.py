"""List the targets."""

from __future__ import annotations

from castline.compiler.targets.onnx import Onnx
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.target import Target
from castline.compiler.targets.tensorrt_rtx.target import TensorRTRTX
from castline.errors import TargetError

TARGETS: tuple[Target, ...] = (Onnx(), OnnxRuntime(), TensorRTRTX())


def target_named(name: str) -> Target:
    """Return the target of that name; TargetError lists them all if there is none."""
    for target in TARGETS:
        if target.name == name:
            return target
    raise TargetError(
        f"There is no target {name!r}. Targets: {', '.join(t.name for t in TARGETS)}."
    )
