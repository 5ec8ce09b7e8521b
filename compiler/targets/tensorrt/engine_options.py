"""Say what may be chosen of an engine: its shapes, its GPUs, and how it is built."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from castline.compiler.targets.tensorrt.shape_flags import ShapeSet
from castline.compiler.targets.tensorrt.sizes import Sizes
from castline.errors import TargetError

HardwareCompatibility: TypeAlias = Literal["none", "ampere+", "same-compute-capability"]
"""Which other GPUs an engine of TensorRT runs on, as trtexec's --hardwareCompatibilityLevel."""


_CAPABILITY = re.compile(r"\d+\.\d")


@dataclass(frozen=True)
class EngineOptions:
    """What a user may choose of an engine.

    `sizes` are the largest batch and lengths; `shapes`, one for each optimization profile, say it
    input by input and take their place. `compute_capabilities` are such as "8.9"; none means the
    edition's default. `timing_cache` is read before a build and written after it. `workspace` is
    the largest size of scratch memory in bytes; None means all that the GPU has.

    Raises:
        TargetError: both ways to give sizes are used, a number is too small, or a compute
            capability is not two numbers.
    """

    sizes: Sizes = field(default_factory=Sizes)
    shapes: tuple[ShapeSet, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    strip_weights: bool = False
    workspace: int | None = None

    def __post_init__(self) -> None:
        if self.shapes and self.sizes != Sizes():
            raise TargetError(
                "The sizes of an engine are given twice: by --minShapes, --optShapes or "
                "--maxShapes, and by --max-batch-size, --max-input-len or --max-seq-len. Use one."
            )
        wrong = [one for one in self.compute_capabilities if not _CAPABILITY.fullmatch(one)]
        if wrong:
            raise TargetError(
                f"--compute-capability {', '.join(map(repr, wrong))}: expected two numbers with a "
                "dot, such as 8.9 or 12.0."
            )
        if self.workspace is not None and self.workspace < 1:
            raise TargetError(f"--memPoolSize workspace: {self.workspace} bytes are too few.")
