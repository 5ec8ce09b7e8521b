"""Make a quantization plan of a checkpoint: trace, ask where scales fold, run the blocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.graph.site_roles import site_roles
from castline.compiler.plan.decisions import CalibrationFacts, PlanIdentity, QuantPlan
from castline.compiler.plan.store import PlanStore, read_plan
from castline.compiler.recipes.load import recipe_from
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.report.quantize_outcome import QuantizeOutcome
from castline.compiler.searchable import reads_float, stays_float
from castline.errors import OutputError, RecipeError, TargetError
from castline.exporters.checkpoint import Checkpoint, open_checkpoint
from castline.exporters.context import context_length
from castline.exporters.export import Exported, export
from castline.progress import Progress, SilentProgress

SAMPLE_LENGTH = 512
"""Tokens of a calibration sample, as SmoothQuant has it, where the model takes so many."""

if TYPE_CHECKING:
    from castline.compiler.calibration.samples import CalibrationSamples
    from castline.compiler.check.evaluation_text import HeldOutPassages, HeldOutText


def quantize_model(
    source: str,
    output: Path,
    *,
    recipe: Recipe,
    device: str = "cpu",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> QuantizeOutcome:
    """Make the quantization plan of a checkpoint by a recipe in the folder `output`.

    What is there of the same checkpoint, recipe and text is gone on with. `device` is where blocks
    run, "cpu" or "cuda". Raises RecipeError for a recipe that takes nothing from a text, and the
    other CastlineErrors; what was finished stays then.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    if recipe.weights_scheme is None and recipe.activations_scheme is None:
        raise RecipeError(f"recipe {recipe.name!r} quantizes nothing, so there is nothing to plan.")
    require_device(device)
    with progress.stage(f"Opening {source}"):
        checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
    exported = export(checkpoint, progress=progress)
    sha256 = hashed(checkpoint, progress)
    plan = make_plan(
        checkpoint,
        exported,
        output,
        recipe=recipe,
        sha256=sha256,
        device=device,
        overwrite=overwrite,
        progress=progress,
    )
    return QuantizeOutcome(
        output=output,
        source=source,
        recipe=recipe.name,
        plan=plan,
        seconds=time.perf_counter() - started,
        notes=exported.notes,
    )


def plan_for(
    checkpoint: Checkpoint,
    exported: Exported,
    output: Path,
    *,
    recipe: Recipe,
    given: Path | None,
    judged_by: HeldOutText | HeldOutPassages | None,
    sha256: str,
    device: str,
    progress: Progress,
) -> QuantPlan | None:
    """Return the plan to quantize by: the one given, or one made for this run if it needs one.

    A plan that is made stays beside the output until that is published, so that a run that was
    stopped, or whose gate failed, need not search again. `judged_by` is the evaluation text, which
    must not be the one that the plan was calibrated on. Raises RecipeError and OutputError.
    """
    if given is not None:
        plan = read_plan(given)
        require_fitting(plan, given, recipe, sha256)
    elif not recipe.needs_calibration:
        return None
    else:
        plan = make_plan(
            checkpoint,
            exported,
            plan_beside(output),
            recipe=recipe,
            sha256=sha256,
            device=device,
            overwrite=True,
            progress=progress,
        )
    if judged_by is not None:
        require_apart(plan, judged_by.source, judged_by.sha256)
    return plan


def plan_beside(output: Path) -> Path:
    """Return where the plan of a compilation is kept until its output is published."""
    return output.with_name(f"{output.name}.plan")


def require_apart(plan: QuantPlan, source: str, sha256: str) -> None:
    """Refuse to judge a model by the text that it was calibrated on: it looks better there.

    `sha256` is that of the evaluation text. Raises RecipeError.
    """
    if plan.identity.calibration.sha256 == sha256:
        raise RecipeError(
            f"The calibration text and the evaluation text are the same, {source}. Give another "
            "for one of them: --calibration-text, --evaluation-text."
        )


def make_plan(
    checkpoint: Checkpoint,
    exported: Exported,
    folder: Path,
    *,
    recipe: Recipe,
    sha256: str,
    device: str,
    overwrite: bool,
    progress: Progress,
) -> QuantPlan:
    """Return the plan of a checkpoint, made in `folder` or gone on with there."""
    from castline.compiler.correctable import require_correctable
    from castline.compiler.search.blocks import BlockModel
    from castline.compiler.search.planning import PlanSearch, Searched
    from castline.compiler.search.second_moments import first_readers

    if recipe.cache_scheme is not None and not exported.interface.cached:
        raise RecipeError(
            f"recipe {recipe.name!r}: kv_cache: {exported.architecture} is an encoder and has no "
            "cache. Use --set kv_cache=null."
        )
    samples = read_samples(checkpoint, recipe, progress)
    with progress.stage("Planning where scales fold"):
        kept = stays_float(exported.model, recipe)
        sites = fold_sites(exported.model).sites
        roles = site_roles(exported.model, sites)
        searched = Searched(sites, kept, roles, reads_float(exported.model))
    identity = plan_identity(recipe, sha256, samples)
    store = PlanStore(folder, identity, recipe.model_dump(mode="json"), exported.layers)
    store.begin(overwrite=overwrite)
    with progress.stage("Preparing the model's blocks"):
        observes = recipe.cache_scheme is not None
        model = BlockModel(checkpoint, device, observes_cache=observes)
    readers = {name: first for name, first in first_readers(sites).items() if name not in kept}
    require_correctable(model, recipe, readers, samples.tokens.shape)
    return PlanSearch(model, searched, recipe, samples.tokens).into(store, progress)


def planned_recipe(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe that the plan in a folder was made by. Raises OutputError, RecipeError."""
    return recipe_from(read_plan(folder).recipe, f"plan {folder}", overrides)


def require_fitting(plan: QuantPlan, folder: Path, recipe: Recipe, sha256: str) -> None:
    """Raise OutputError for a plan of another checkpoint, or one that another recipe searched."""
    if plan.identity.checkpoint_sha256 != sha256:
        raise OutputError(
            f"{folder}: is a plan of another checkpoint (SHA-256 "
            f"{plan.identity.checkpoint_sha256[:12]}, this one is {sha256[:12]}). Make one of this "
            "checkpoint: castline quantize."
        )
    wanted, made = recipe.searched, dict(plan.identity.searched)
    differing = sorted(name for name in wanted if wanted[name] != made.get(name))
    if differing:
        raise OutputError(
            f"{folder}: was made by a recipe that differs from {recipe.name!r} in "
            f"{', '.join(differing)}. Leave --recipe and --set out to use the plan's own, or make "
            "another plan: castline quantize."
        )


def read_samples(checkpoint: Checkpoint, recipe: Recipe, progress: Progress) -> CalibrationSamples:
    """Return the calibration samples that a recipe asks for. Raises as calibration_samples."""
    from castline.compiler.calibration.samples import calibration_samples

    wanted = recipe.calibration
    longest = context_length(checkpoint.config)
    with progress.stage("Reading the calibration text"):
        return calibration_samples(
            checkpoint.tokenizer(),
            wanted.text,
            samples=wanted.samples,
            length=wanted.length or min(SAMPLE_LENGTH, longest),
            seed=wanted.seed,
            chat_template=wanted.chat_template,
            longest=longest,
        )


def plan_identity(recipe: Recipe, sha256: str, samples: CalibrationSamples) -> PlanIdentity:
    """Return what a plan depends on."""
    count, length = samples.tokens.shape
    facts = CalibrationFacts(
        samples.source, samples.sha256, count, length, samples.seed, samples.chat_template
    )
    return PlanIdentity(sha256, recipe.searched, facts, version("castline"))


def hashed(checkpoint: Checkpoint, progress: Progress) -> str:
    """Return the SHA-256 of the checkpoint."""
    with progress.stage("Hashing the checkpoint", checkpoint.hashed_bytes, "B") as advance:
        return checkpoint.sha256(advance)


def require_device(device: str) -> None:
    """Raise TargetError if torch cannot run there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise TargetError(
            "--device cuda: torch finds no CUDA GPU here. Use --device cpu, or install a torch "
            "with CUDA on a machine with a GPU."
        )
