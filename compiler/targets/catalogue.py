"""List the targets."""

from __future__ import annotations

from dataclasses import replace

from castline.compiler.targets.onnx import Onnx
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.target import Target
from castline.compiler.targets.tensorrt_rtx.plugin_library import PluginUse
from castline.compiler.targets.tensorrt_rtx.target import TensorRTRTX
from castline.errors import TargetError

TARGETS: tuple[Target, ...] = (Onnx(), OnnxRuntime(), TensorRTRTX())


def target_named(name: str, plugins: PluginUse = "auto") -> Target:
    """Return the target of that name, and whether it may use plugins.

    Raises TargetError that lists all targets if there is none, or for plugins that it never uses.
    """
    for target in TARGETS:
        if target.name != name:
            continue
        if isinstance(target, TensorRTRTX):
            return replace(target, plugins=plugins)
        if plugins != "auto":
            raise TargetError(f"--plugins {plugins} is for the tensorrt-rtx target, not {name}.")
        return target
    raise TargetError(
        f"There is no target {name!r}. Targets: {', '.join(t.name for t in TARGETS)}."
    )
