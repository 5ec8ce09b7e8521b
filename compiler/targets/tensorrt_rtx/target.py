"""The `tensorrt-rtx` target: an engine for NVIDIA GPUs, built with or without one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.context import note_float_activations
from castline.compiler.targets.target import Built, Lowered
from castline.compiler.targets.tensorrt_rtx.build import EngineFacts, build_engine
from castline.compiler.targets.tensorrt_rtx.environment import (
    not_executed,
    require_builder,
    runnable_here,
)
from castline.compiler.targets.tensorrt_rtx.lowering import (
    lower_for_plugins,
    lower_natively,
    plugin_counts,
    refuse_misfits,
)
from castline.compiler.targets.tensorrt_rtx.plugin_library import (
    FOLDER,
    PluginUse,
    layers_in_words,
    library_facts,
    required_library,
    travelling,
)
from castline.compiler.targets.tensorrt_rtx.plugin_needs import (
    misfits,
    run_time_need,
    zero_points_need,
)
from castline.compiler.targets.tensorrt_rtx.profile import Profile, fitted
from castline.compiler.targets.tensorrt_rtx.reading import plugin_nodes
from castline.compiler.targets.tensorrt_rtx.unsupported import unsupported
from castline.compiler.targets.write import MODEL
from castline.errors import TargetError
from castline.plugins.library import Library
from castline.progress import Progress

ENGINE = "model.engine"
DEFAULT_CAPABILITIES = "8.0, 8.6, 8.9, 12.0 and later (TensorRT-RTX's default)"


@dataclass(frozen=True)
class TensorRTRTX:
    """Strongly typed engines; INT4 weights in groups stay INT4 inside.

    INT8 weights with a scale a channel, or one, stay INT8, and multiply INT8 activations where
    those have static scales. Castline's plugins compute what TensorRT-RTX has no operators for:
    zero-points, activations that are quantized at run time, and reassembled channels.
    """

    name: str = "tensorrt-rtx"
    dtype: ir.DataType = ir.DataType.FLOAT16
    profile: Profile = field(default_factory=Profile)
    compute_capabilities: tuple[str, ...] = ()
    plugins: PluginUse = "auto"

    def require(self, recipe: Recipe) -> None:
        """Raise TargetError for what TensorRT-RTX cannot do, or if it or a library is missing."""
        refused = unsupported(recipe, plugins=self.plugins == "auto")
        if refused:
            raise TargetError("\n".join(refused))
        require_builder()
        if self.plugins == "never":
            return
        at_run_time, zero_points = run_time_need(recipe), zero_points_need(recipe)
        needs = [need for need in (zero_points, at_run_time) if need is not None]
        if needs:
            required_library(" and ".join(needs), native=at_run_time is None)

    def require_dtype(self, dtype: ir.DataType) -> None:
        """TensorRT-RTX takes float32, float16 and bfloat16 alike."""

    def require_graph(self, model: ir.Model, recipe: Recipe) -> None:
        """Raise TargetError for linears of sizes or types that plugins do not compute."""
        if self.plugins == "auto":
            refuse_misfits(misfits(model, recipe), native=run_time_need(recipe) is None)

    def lower(self, model: ir.Model, context_length: int) -> Lowered:  # noqa: ARG002
        """Give nodes to plugins that TensorRT has no operators for, with weights packed for them.

        The rest stays: the standard operators of the neutral graph are TensorRT's native form.
        Raises TargetError for what a quantized checkpoint brought that neither computes, or where
        it needs plugins and there are none.
        """
        note_float_activations(model)
        if self.plugins == "never":
            return Lowered(lower_natively(model))
        notes = lower_for_plugins(model)
        if counts := plugin_counts(model):
            required_library(layers_in_words(counts))
        return Lowered(notes)

    def build(self, folder: Path, context_length: int, progress: Progress) -> Built:
        """Build model.engine beside the ONNX model, and the plugin library that it needs."""
        profile = fitted(self.profile.clipped(context_length), folder / MODEL)
        plugins = _plugins(folder)
        with _log_folder() as logs:
            facts = build_engine(
                folder / MODEL,
                folder / ENGINE,
                profile=profile,
                compute_capabilities=self.compute_capabilities,
                plugins=None if plugins is None else plugins.path,
                log=logs / f"{ENGINE}.build.log",
                progress=progress,
            )
        reason = runnable_here() or "Castline does not execute engines yet"
        return Built(
            facts={
                "engine": ENGINE,
                "tensorrt_rtx": facts.tensorrt_version,
                "compute_capabilities": list(facts.compute_capabilities) or "default",
                "profiles": [dict(profile) for profile in facts.profiles],
                "weights_kept_low_bit": facts.weights_kept_low_bit,
                "plugins": library_facts(plugins, facts.plugin_layers),
            },
            notes=_notes(facts, profile, self.compute_capabilities),
            bytes=facts.bytes,
            not_executed=(not_executed(reason),),
        )


def _plugins(folder: Path) -> Library | None:
    """Put the plugin library into an output folder whose model needs it; return the copy."""
    if not plugin_nodes(folder / MODEL):
        return None
    return travelling(required_library("some nodes of this model"), folder)


def _notes(
    facts: EngineFacts, profile: Profile, compute_capabilities: tuple[str, ...]
) -> tuple[str, ...]:
    kept = {
        True: "stay low-bit",
        False: "were expanded",
        None: "have no low-bit part, or too small a one to tell",
    }
    past = f", past {profile.past}" if profile.past.max else ""
    plugins = layers_in_words(facts.plugin_layers)
    return (
        f"engine: weights {kept[facts.weights_kept_low_bit]}, "
        f"built in {facts.seconds:.0f} s with {facts.peak_memory_bytes / 1e9:.1f} GB",
        f"engine: takes batch {profile.batch}, sequence {profile.sequence}{past}; for compute "
        f"capability {_capabilities(compute_capabilities)}",
        *([f"engine: plugins compute {plugins}; their library is in {FOLDER}/"] if plugins else []),
        *facts.remarks,
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
