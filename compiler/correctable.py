"""Refuse a correction that makes no sense for a model, its text or this machine's memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from castline.compiler.check.memory import available_memory
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.window_memory import window_bytes
from castline.errors import RecipeError

Shapes: TypeAlias = dict[str, tuple[int, ...]]

_GB = 1e9


def require_correctable(
    model: BlockModel, recipe: Recipe, readers: Mapping[str, str], tokens: tuple[int, int]
) -> None:
    """Raise RecipeError if the recipe's correction cannot be learned, and say what could be.

    `readers` has each weight that is quantized -> the first that reads the same values, `tokens`
    are the calibration's samples and length.
    """
    correction = recipe.correction
    if correction is None:
        return
    blocks = [_shapes(model, index, readers) for index in range(len(model.blocks))]
    place = f"recipe {recipe.name!r}: correction"
    for name, shape in (pair for block in blocks for pair in block.items()):
        if correction.rank >= min(shape[-2:]):
            raise RecipeError(
                f"{place}.rank is {correction.rank}, and {name} has {shape[-2]} rows and "
                f"{shape[-1]} columns: such a correction would be a whole matrix. Expected a rank "
                f"below {min(shape[-2:])}; the paper's is 4."
            )
    _require_tokens(place, blocks, tokens)
    needs = _Needs(
        model, blocks, readers if recipe.weighs_errors else {}, correction.batch, tokens[1]
    )
    _require_memory(place, needs, correction.window)


def _shapes(model: BlockModel, index: int, linears: Collection[str]) -> Shapes:
    parameters = model.parameters(index)
    return {name: tuple(each.shape) for name, each in parameters.items() if name in linears}


def _require_tokens(place: str, blocks: list[Shapes], tokens: tuple[int, int]) -> None:
    samples, length = tokens
    widest = max((shape[-1] for block in blocks for shape in block.values()), default=0)
    if samples * length < widest:
        raise RecipeError(
            f"{place}: the calibration text has {samples * length} tokens, fewer than the {widest} "
            "channels that a linear reads, so it would be learned by heart. Give more: --samples "
            f"{-(-widest // length)} at least."
        )


@dataclass(frozen=True, eq=False)
class _Needs:
    """What the memory of a window depends on, beside its length."""

    model: BlockModel
    blocks: list[Shapes]
    summed: Mapping[str, str]
    """Weight -> the first that reads the same, where codes are chosen by what is read."""
    batch: int
    length: int

    def bytes(self, window: int) -> int:
        """Return how many the largest of the model's windows takes."""
        experts = int(getattr(self.model.model.config, "num_experts_per_tok", None) or 1)
        begins = range(0, len(self.blocks), window)
        return max(
            window_bytes(
                [shape for block in within for shape in block.values()],
                self.batch,
                self.length,
                experts=experts,
                summed=[shape for block in within for shape in self._summed(block)],
            )
            for within in (self.blocks[begin : begin + window] for begin in begins)
        )

    def _summed(self, block: Shapes) -> Collection[tuple[int, ...]]:
        first = {self.summed[name]: shape for name, shape in block.items() if name in self.summed}
        return first.values()


def _require_memory(place: str, needs: _Needs, window: int) -> None:
    available = _available(needs.model.device)
    if available is None:
        return
    fitting = [fewer for fewer in range(window, 0, -1) if needs.bytes(fewer) <= available]
    if fitting[:1] == [window]:
        return
    smaller = "--set calibration.length=N with a smaller N, and --set correction.batch=1"
    advice = f"--set correction.window={fitting[0]}" if fitting else smaller
    raise RecipeError(
        f"{place}: a window of {window} layers takes about {needs.bytes(window) / _GB:.1f} GB "
        f"while it learns, and {available / _GB:.1f} GB are free. Use {advice}, or a machine with "
        "more memory."
    )


def _available(device: torch.device) -> int | None:
    """Return how many bytes are free there; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()
