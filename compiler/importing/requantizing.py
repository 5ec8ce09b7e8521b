"""Stop a compilation that would change the codes of a quantized checkpoint unasked."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.importing.carried import Carried, carried_codes, searched_anew
from castline.compiler.importing.imported import Imported
from castline.compiler.recipes.recipe import Recipe
from castline.errors import RecipeError, TargetError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.tensors import named
from castline.progress import Progress

AS_STORED = "as-stored"
"""The recipe that changes nothing."""
_LISTED = 4  # names of weights that an error spells out before it only counts
_ALLOW = "--allow-lossy compiles all the same, and the report says what it cost."


@dataclass(frozen=True)
class SourceCodes:
    """What a compilation does with the codes of a checkpoint, if it stores any."""

    checkpoint: Checkpoint
    """Under the names of the graph's weights; some of them are stored quantized."""
    recipe: Recipe
    stored: Imported | None
    """What is placed in the graph; None where the recipe quantizes the values anew."""
    allow_lossy: bool

    def judge(self, model: ir.Model, float_type: ir.DataType, progress: Progress) -> Carried:
        """Return what became of the codes in a lowered graph; there are none of a float checkpoint.

        Where a search folded scales into the weights they say nothing of the codes, which are all
        counted as changed, at no known cost. Raises TargetError where a code changed, or a scale,
        unless that is allowed; and always where the graph's type is too small for a scale.
        """
        if not self.checkpoint.quantized:
            return Carried()
        if self.recipe.needs_calibration:
            return searched_anew(self.checkpoint)
        codes = self.checkpoint.quantized if self.stored is None else self.stored.given
        carried = carried_codes(
            model,
            self.checkpoint,
            codes,
            transformed=self.stored is not None,
            progress=progress,
        )
        if self.stored is not None:
            carried.factors = self.stored.inexact_factors(float_type)
        if not carried.exact and not self.allow_lossy:
            raise TargetError(self._refusal(carried))
        return carried

    def _refusal(self, carried: Carried) -> str:
        names = f", in {named(carried.linears, _LISTED)}" if carried.linears else ""
        lost = f"{self.checkpoint.source}: {carried.words}{names}. "
        if self.stored is None:
            advice = (
                f"Recipe {self.recipe.name!r} quantizes what is quantized already; --recipe "
                f"{AS_STORED} carries over what is stored."
            )
        else:
            advice = (
                "The graph's type cannot hold all stored scales: use --dtype float32, or bfloat16 "
                "where they are stored in it."
            )
        return f"{lost}{advice} {_ALLOW}"


def require_carrying(checkpoint: Checkpoint, recipe: Recipe, *, allow_lossy: bool) -> None:
    """Refuse, before anything is computed, what cannot end well.

    That is to carry over the codes of a checkpoint without any, and to search new ones for codes
    that are stored. Raises RecipeError.
    """
    if recipe.as_stored and not checkpoint.quantized:
        raise RecipeError(_nothing_stored(checkpoint, recipe))
    if recipe.needs_calibration and checkpoint.quantized and not allow_lossy:
        raise RecipeError(
            f"recipe {recipe.name!r} searches codes anew, and {checkpoint.source} stores those of "
            f"{len(checkpoint.quantized)} weights. --recipe {AS_STORED} carries them over, "
            f"unchanged. {_ALLOW}"
        )


def _nothing_stored(checkpoint: Checkpoint, recipe: Recipe) -> str:
    reasons = dict.fromkeys(checkpoint.dequantized.values())
    why = f", of which only values can be had ({'; '.join(reasons)})" if reasons else ""
    return (
        f"recipe {recipe.name!r} carries over the codes of a quantized checkpoint, and "
        f"{checkpoint.source} has none{why}. Use a recipe that quantizes, such as --recipe "
        "w4a16-rtn; castline recipes lists them."
    )
