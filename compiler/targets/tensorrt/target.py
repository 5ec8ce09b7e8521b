"""The `tensorrt` and `tensorrt-rtx` targets: engines for NVIDIA GPUs."""

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
from castline.compiler.targets.graph_forms import fix_caches, require_capacity, require_forms
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.target import Built, Lowered
from castline.compiler.targets.tensorrt.build import build_engine
from castline.compiler.targets.tensorrt.edition import Edition
from castline.compiler.targets.tensorrt.engine_facts import engine_facts, engine_notes
from castline.compiler.targets.tensorrt.engine_profiles import engine_profiles, profiles_of
from castline.compiler.targets.tensorrt.environment import (
    device_capability,
    not_executed,
    require_builder,
    runnable_here,
)
from castline.compiler.targets.tensorrt.lowering import (
    lower_for_plugins,
    lower_natively,
    plugin_counts,
    refuse_misfits,
)
from castline.compiler.targets.tensorrt.plugin_library import (
    FOLDER,
    layers_in_words,
    required_library,
    travelling,
)
from castline.compiler.targets.tensorrt.plugin_needs import (
    misfits,
    run_time_need,
    zero_points_need,
)
from castline.compiler.targets.tensorrt.reading import plugin_nodes
from castline.compiler.targets.tensorrt.unsupported import refused_forms, unsupported
from castline.compiler.targets.write import MODEL
from castline.errors import TargetError
from castline.plugins.cache import LIBRARY
from castline.plugins.library import Library, read_library
from castline.progress import Progress

ENGINE = "model.engine"


@dataclass(frozen=True)
class TensorRT:
    """Strongly typed engines; INT4 weights in groups stay INT4 inside.

    INT8 weights with a scale a channel, or one, stay INT8, and multiply INT8 activations where
    those have static scales. Castline's plugins compute what TensorRT has no operators for:
    zero-points, activations that are quantized at run time, and reassembled channels.
    """

    edition: Edition
    options: TargetOptions = field(default_factory=TargetOptions)
    dtype: ir.DataType = ir.DataType.FLOAT16

    @property
    def name(self) -> str:
        return self.edition.name

    def require(self, recipe: Recipe) -> None:
        """Raise TargetError for what no engine can do, or if TensorRT or a library is missing."""
        plugins = self.options.plugins
        refused = (
            *unsupported(recipe, self.name, plugins=plugins == "auto"),
            *refused_forms(recipe, self.options),
        )
        if refused:
            raise TargetError("\n".join(refused))
        require_builder(self.edition, self.options.engine)
        if plugins == "never":
            return
        at_run_time, zero_points = run_time_need(recipe), zero_points_need(recipe)
        needs = [need for need in (zero_points, at_run_time) if need is not None]
        if needs:
            required_library(" and ".join(needs), native=at_run_time is None)

    def require_dtype(self, dtype: ir.DataType) -> None:
        """TensorRT takes float32, float16 and bfloat16 alike."""

    def require_graph(self, model: ir.Model, recipe: Recipe, context_length: int) -> None:
        """Raise TargetError for linears that plugins do not compute, or shapes that do not fit."""
        require_forms(model, self.options)
        require_capacity(self.options, context_length)
        if self.options.plugins == "auto":
            refuse_misfits(misfits(model, recipe), native=run_time_need(recipe) is None)
        if too_long := self.options.engine.sizes.refused(context_length):
            raise TargetError("\n".join(too_long))
        if self.options.kv_cache == "growing":  # a fixed one changes the inputs: asked in build
            profiles_of(model.graph.inputs, self.options.engine, context_length, Path(MODEL))

    def lower(self, model: ir.Model, context_length: int) -> Lowered:
        """Give nodes to plugins that TensorRT has no operators for, with weights packed for them.

        The rest stays: the standard operators of the neutral graph are TensorRT's native form.
        Raises TargetError for what a quantized checkpoint brought that neither computes, where it
        needs plugins and there are none, or where a cache cannot have a fixed capacity and is to.
        """
        note_float_activations(model)
        if self.options.plugins == "never":
            notes = lower_natively(model, self.name)
        else:
            notes = lower_for_plugins(model)
            if counts := plugin_counts(model):
                required_library(layers_in_words(counts))
        fix_caches(model, self.options, context_length)
        return Lowered(notes)

    def finish(self, folder: Path) -> tuple[str, ...]:  # noqa: ARG002
        """The ONNX model keeps all logits for the checks: those of the engine alone are cut."""
        return ()

    def build(self, folder: Path, context_length: int, progress: Progress) -> Built:
        """Build model.engine beside the ONNX model, and the plugin library that it needs."""
        profiles = engine_profiles(folder / MODEL, self.options.engine, context_length)
        plugins = _plugins(folder)
        with _log_folder(self.edition) as logs:
            facts = build_engine(
                folder / MODEL,
                folder / ENGINE,
                edition=self.edition,
                profiles=profiles,
                options=self.options.engine,
                logits=self.options.logits,
                plugins=None if plugins is None else plugins.path,
                log=logs / f"{ENGINE}.build.log",
                progress=progress,
            )
        reason = runnable_here() or "castline check OUT does that"
        device = None if self.edition.is_rtx else device_capability()
        return Built(
            facts=engine_facts(facts, self.options, plugins, device),
            notes=engine_notes(facts),
            bytes=facts.bytes,
            not_executed=(not_executed(reason),),
            peak_memory_bytes=facts.peak_memory_bytes,
            seconds=facts.seconds,
        )


def _plugins(folder: Path) -> Library | None:
    """Put the plugin library into an output folder whose model needs it; return the copy.

    A folder that is built again has its library, for which its weights are packed.
    """
    if not plugin_nodes(folder / MODEL):
        return None
    if (folder / FOLDER / LIBRARY).is_file():
        return read_library(folder / FOLDER / LIBRARY)
    return travelling(required_library("some nodes of this model"), folder)


@contextmanager
def _log_folder(edition: Edition) -> Iterator[Path]:
    """Make a folder for the build log; it stays only where the builder refused and left a log.

    The output folder goes when a build fails, and the log of such a build is what one needs.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"castline-{edition.name}-log-"))
    needed = False
    try:
        yield folder
    except TargetError:
        needed = any(folder.iterdir())
        raise
    finally:
        if not needed:
            shutil.rmtree(folder)
