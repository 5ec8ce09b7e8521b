"""The `tensorrt-rtx` target: an engine for NVIDIA GPUs, built with or without one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from castline.compiler.passes.linear_w4a16 import LinearW4A16
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.target import Built, Lowered
from castline.compiler.targets.tensorrt_rtx.build import build_engine
from castline.compiler.targets.tensorrt_rtx.environment import (
    not_executed,
    require_builder,
    runnable_here,
)
from castline.compiler.targets.tensorrt_rtx.profile import Profile, fitted
from castline.compiler.targets.tensorrt_rtx.unsupported import (
    unsupported,
    unsupported_products,
)
from castline.compiler.targets.write import MODEL
from castline.errors import TargetError
from castline.progress import Progress

ENGINE = "model.engine"
DEFAULT_CAPABILITIES = "8.0, 8.6, 8.9, 12.0 and later (TensorRT-RTX's default)"


@dataclass(frozen=True)
class TensorRTRTX:
    """Strongly typed engines; INT4 weights in groups stay INT4 inside.

    INT8 weights with a scale a channel, or one, stay INT8, and multiply INT8 activations where
    those have static scales.
    """

    name: str = "tensorrt-rtx"
    dtype: ir.DataType = ir.DataType.FLOAT16
    profile: Profile = field(default_factory=Profile)
    compute_capabilities: tuple[str, ...] = ()

    def require(self, recipe: Recipe) -> None:
        """Raise TargetError for what TensorRT-RTX cannot do, or if it is missing."""
        refused = unsupported(recipe)
        if refused:
            raise TargetError("\n".join(refused))
        require_builder()

    def require_dtype(self, dtype: ir.DataType) -> None:
        """TensorRT-RTX takes float32, float16 and bfloat16 alike."""

    def lower(self, model: ir.Model, context_length: int) -> Lowered:  # noqa: ARG002
        """Let products take zero-points as offsets, since TensorRT has symmetric INT4 alone.

        The rest stays: the standard operators of the neutral graph are TensorRT's native form.
        Raises TargetError for activations that a checkpoint has quantized at run time.
        """
        if refused := unsupported_products(model):
            raise TargetError("\n".join(refused))
        products = LinearW4A16()(model)
        if not products:
            return Lowered()
        return Lowered(
            (f"zero-points of {products} products added as offsets, which changes no weight",)
        )

    def build(self, folder: Path, context_length: int, progress: Progress) -> Built:
        """Build model.engine beside the ONNX model."""
        profile = fitted(self.profile.clipped(context_length), folder / MODEL)
        with _log_folder() as logs:
            facts = build_engine(
                folder / MODEL,
                folder / ENGINE,
                profile=profile,
                compute_capabilities=self.compute_capabilities,
                log=logs / f"{ENGINE}.build.log",
                progress=progress,
            )
        reason = runnable_here() or "Castline does not execute engines yet"
        kept = {
            True: "stay low-bit",
            False: "were expanded",
            None: "have no low-bit part, or too small a one to tell",
        }
        notes = (
            f"engine: weights {kept[facts.weights_kept_low_bit]}, "
            f"built in {facts.seconds:.0f} s with {facts.peak_memory_bytes / 1e9:.1f} GB",
            f"engine: takes batch {profile.batch}, sequence {profile.sequence}"
            f"{f', past {profile.past}' if profile.past.max else ''}; for compute capability "
            f"{_capabilities(self.compute_capabilities)}",
            *facts.remarks,
        )
        return Built(
            facts={
                "engine": ENGINE,
                "tensorrt_rtx": facts.tensorrt_version,
                "compute_capabilities": list(facts.compute_capabilities) or "default",
                "profiles": [dict(profile) for profile in facts.profiles],
                "weights_kept_low_bit": facts.weights_kept_low_bit,
            },
            notes=notes,
            bytes=facts.bytes,
            not_executed=(not_executed(reason),),
        )


def _capabilities(chosen: tuple[str, ...]) -> str:
    return ", ".join(chosen) or DEFAULT_CAPABILITIES


@contextmanager
def _log_folder() -> Iterator[Path]:
    """Make a folder for the build log; it stays only where TensorRT-RTX refused and left a log.

    The output folder goes when a build fails, and the log of such a build is what one needs.
    """
    folder = Path(tempfile.mkdtemp(prefix="castline-tensorrt-rtx-log-"))
    needed = False
    try:
        yield folder
    except TargetError:
        needed = any(folder.iterdir())
        raise
    finally:
        if not needed:
            shutil.rmtree(folder)
