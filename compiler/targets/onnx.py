"""The `onnx` target: the neutral graph in standard operators, its experts sparse."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from castline.compiler.passes.dispatch_tokens import DispatchTokens
from castline.compiler.passes.float8_casts import Float8Casts
from castline.compiler.passes.unsigned_codes import UnsignedCodes
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.graph_forms import (
    cut_logits,
    fix_caches,
    form_facts,
    require_capacity,
    require_forms,
)
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.target import Built, Lowered
from castline.progress import Progress


@dataclass(frozen=True)
class Onnx:
    """Runs wherever opset 23 does; ONNX Runtime multiplies by the low-bit codes even so."""

    name: str = "onnx"
    dtype: ir.DataType = ir.DataType.FLOAT
    options: TargetOptions = field(default_factory=TargetOptions)

    def require(self, recipe: Recipe) -> None:
        """Everything that a recipe can say has a standard form."""

    def require_dtype(self, dtype: ir.DataType) -> None:
        """Every dtype has a standard form."""

    def require_graph(self, model: ir.Model, recipe: Recipe, context_length: int) -> None:  # noqa: ARG002
        """Raise TargetError where the graph cannot have the forms of cache and logits asked for."""
        require_forms(model, self.options)
        require_capacity(self.options, context_length)

    def lower(self, model: ir.Model, context_length: int) -> Lowered:
        """Give experts the tokens that chose them, activations unsigned codes, caches their form.

        The rest of the neutral graph stays as it is. Raises TargetError where a cache cannot have a
        fixed capacity and is to.
        """
        UnsignedCodes()(model)
        Float8Casts()(model)
        declined = Counter(DispatchTokens()(model).values())
        notes = tuple(
            f"{count} nodes computed by every expert: {reason}"
            for reason, count in declined.items()
        )
        return Lowered(notes + fix_caches(model, self.options, context_length))

    def build(self, folder: Path, context_length: int, progress: Progress) -> Built:  # noqa: ARG002
        """Nothing is built beyond the model."""
        return Built(facts=form_facts(self.options, context_length))

    def finish(self, folder: Path) -> tuple[str, ...]:
        """Cut the logits to the last token's where that is asked for."""
        return cut_logits(folder, self.options)
