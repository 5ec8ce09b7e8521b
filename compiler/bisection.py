"""Find which layers of a compiled folder to keep in float so that its gate passes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from castline.compiler.check.any_pair import Sides, described, require_memory_of
from castline.compiler.check.evaluation_text import HeldOutText, held_out_text
from castline.compiler.check.kept_pieces import Kept, KeptPieces, Tried, kept_pieces
from castline.compiler.check.memory import available_memory
from castline.compiler.check.mixed_language import MixedLanguage
from castline.compiler.check.mixed_pair import mixed_pair
from castline.compiler.check.model_kind import NamedModel, named_model
from castline.compiler.check.pieces import Cuts
from castline.compiler.check.provenance import opening_title, recorded_source, require_recorded
from castline.compiler.check.recorded_recipe import recorded_recipe, recorded_thresholds
from castline.compiler.package.manifest import read_manifest
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.report.bisect_outcome import BisectOutcome, TriedPiece
from castline.compiler.report.record import read_report
from castline.errors import OutputError
from castline.exporters.checkpoint import Checkpoint
from castline.progress import Progress, SilentProgress


def bisect_output(
    output: Path,
    *,
    against: str | None = None,
    evaluation_text: str | None = None,
    overrides: Sequence[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> BisectOutcome:
    """Find the smallest set of layers, the embedding and the head among them, to keep in float.

    No member of the set can be left out. Mixes of the folder's graph and of the float graph of its
    original are run, cut where layers hand their hidden states on, and judged by the recipe's
    thresholds, which `overrides` change. Raises OutputError for a folder that is no quantized
    decoder's or cannot be cut so, RecipeError where no layers are enough, and the CastlineErrors of
    `check_output`.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    manifest = read_manifest(output)
    recipe = _require_quantized(output, recorded_recipe(manifest))
    thresholds = recorded_thresholds(manifest, overrides)
    result = _require_graph(named_model(output))
    source = against or recorded_source(output, manifest, read_report(output) or {})
    original = named_model(source)
    with progress.stage(opening_title(source)):
        opened = described(original)
    notes: tuple[str, ...] = ()
    if against is None and isinstance(opened, Checkpoint):
        notes = require_recorded(opened, output, manifest, progress)
    with progress.stage("Reading the evaluation text"):
        text = held_out_text(opened, evaluation_text)
    if not isinstance(text, HeldOutText):
        raise OutputError(
            f"{output} is an encoder, and only decoders are bisected. See which layer diverges "
            "with --layers."
        )
    sides = Sides(original, result, opened, text, threads)
    require_memory_of(sides, available_memory())
    cuts, mixed = mixed_pair(sides, progress)
    language = MixedLanguage(mixed, text.windows, thresholds)
    with progress.stage("Trying mixes", unit="mixes") as advance:

        def tried(kept: Kept) -> Tried:
            found = language.tried(kept)
            advance(1)
            return found

        found = kept_pieces(_units(cuts, recipe), tried)
    settings, more = _settings(recipe, cuts, found.chosen.kept)
    return BisectOutcome(
        output=output,
        against=source,
        pieces=_pieces(cuts, found),
        language_quantized=found.quantized.language,
        verdicts_quantized=found.quantized.verdicts,
        language=found.chosen.language,
        verdicts=found.chosen.verdicts,
        settings=settings,
        mixes=found.mixes,
        seconds=time.perf_counter() - started,
        notes=notes + more,
    )


def _require_quantized(output: Path, recipe: Recipe | None) -> Recipe:
    if recipe is None:
        raise OutputError(
            f"{output} was exported and not quantized: there is nothing to keep in float. Give a "
            "folder that castline compile wrote."
        )
    return recipe


def _require_graph(result: NamedModel) -> NamedModel:
    if result.graph is None:
        raise OutputError(
            f"{result.source} is a checkpoint, and graphs are bisected: compile it with the same "
            "recipe for --target onnxruntime, and bisect that folder."
        )
    return result


def _units(cuts: Cuts, recipe: Recipe) -> tuple[int, ...]:
    """Return the places of the pieces that a recipe quantizes and may keep in float instead."""
    layers = range(1, len(cuts.layers) + 1)
    embedding = (0,) if recipe.embedding != "keep" else ()
    head = (len(cuts.titles) - 1,) if recipe.head != "keep" else ()
    return (*embedding, *layers, *head)


def _settings(recipe: Recipe, cuts: Cuts, kept: Kept) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what keeps these pieces in float when the recipe is used again, and notes."""
    if not kept:
        return (), ()
    if recipe.as_stored:
        note = "the recipe as-stored keeps nothing: use another, with keep, and --allow-lossy"
        return (), (note,)
    last = len(cuts.titles) - 1
    layers = [f"{cuts.titles[place]}.*" for place in sorted(kept) if 0 < place < last]
    settings = [f"keep=[{', '.join((*recipe.keep, *layers))}]"] if layers else []
    settings += ["embedding=keep"] if 0 in kept else []
    settings += ["head=keep"] if last in kept else []
    return tuple(settings), ()


def _pieces(cuts: Cuts, found: KeptPieces) -> tuple[TriedPiece, ...]:
    without = {
        place: {one.name: one.value for one in tried.verdicts if not one.passed and one.value}
        for tried in found.without
        for place in found.chosen.kept - tried.kept
    }
    return tuple(
        TriedPiece(
            name=cuts.titles[place],
            kl_divergence=divergence,
            kept=place in found.chosen.kept,
            without=without.get(place, {}),
        )
        for place, divergence in found.alone
    )
