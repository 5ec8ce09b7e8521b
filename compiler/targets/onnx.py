"""The `onnx` target: the neutral graph in standard operators, its experts sparse."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from castline.compiler.passes.dispatch_tokens import DispatchTokens
from castline.compiler.passes.float8_casts import Float8Casts
from castline.compiler.passes.unsigned_codes import UnsignedCodes
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.target import Built, Lowered
from castline.progress import Progress


@dataclass(frozen=True)
class Onnx:
    """Runs wherever opset 23 does; ONNX Runtime multiplies by the low-bit codes even so."""

    name: str = "onnx"
    dtype: ir.DataType = ir.DataType.FLOAT

    def require(self, recipe: Recipe) -> None:
        """Everything that a recipe can say has a standard form."""

    def require_dtype(self, dtype: ir.DataType) -> None:
        """Every dtype has a standard form."""

    def require_graph(self, model: ir.Model, recipe: Recipe) -> None:
        """Every float graph can be computed, however it is quantized."""

    def lower(self, model: ir.Model, context_length: int) -> Lowered:  # noqa: ARG002
        """Give experts the tokens that chose them, and activations unsigned codes.

        The rest of the neutral graph stays as it is.
        """
        UnsignedCodes()(model)
        Float8Casts()(model)
        declined = Counter(DispatchTokens()(model).values())
        return Lowered(
            tuple(
                f"{count} nodes computed by every expert: {reason}"
                for reason, count in declined.items()
            )
        )

    def build(self, folder: Path, context_length: int, progress: Progress) -> Built:  # noqa: ARG002
        """Nothing is built beyond the model."""
        return Built(facts={})
