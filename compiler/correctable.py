"""Refuse a correction that makes no sense for a model, its text or this machine's memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

import torch

from castline.compiler.check.memory import available_memory
from castline.compiler.recipes.reassembly import Correction
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.window_memory import window_bytes
from castline.errors import RecipeError

Shapes: TypeAlias = dict[str, tuple[int, ...]]

_GB = 1e9


def require_correctable(
    model: BlockModel, recipe: Recipe, linears: Collection[str], tokens: tuple[int, int]
) -> None:
    """Raise RecipeError if the recipe's correction cannot be learned, and say what could be.

    `linears` are the weights that are quantized, `tokens` the calibration's samples and length.
    """
    correction = recipe.correction
    if correction is None:
        return
    blocks = [_shapes(model, index, linears) for index in range(len(model.blocks))]
    place = f"recipe {recipe.name!r}: correction"
    for name, shape in (pair for block in blocks for pair in block.items()):
        if correction.rank >= min(shape[-2:]):
            raise RecipeError(
                f"{place}.rank is {correction.rank}, and {name} has {shape[-2]} rows and "
                f"{shape[-1]} columns: such a correction would be a whole matrix. Expected a rank "
                f"below {min(shape[-2:])}; the paper's is 4."
            )
    _require_tokens(place, blocks, tokens)
    _require_memory(place, model, correction, blocks, tokens[1])


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


def _require_memory(
    place: str, model: BlockModel, correction: Correction, blocks: list[Shapes], length: int
) -> None:
    available = _available(model.device)
    if available is None:
        return
    fitting = [
        window
        for window in range(correction.window, 0, -1)
        if _needed(model, blocks, window, correction.batch, length) <= available
    ]
    if fitting[:1] == [correction.window]:
        return
    needed = _needed(model, blocks, correction.window, correction.batch, length)
    smaller = "--set calibration.length=N with a smaller N, and --set correction.batch=1"
    advice = f"--set correction.window={fitting[0]}" if fitting else smaller
    raise RecipeError(
        f"{place}: a window of {correction.window} layers takes about {needed / _GB:.1f} GB while "
        f"it learns, and {available / _GB:.1f} GB are free. Use {advice}, or a machine with more "
        "memory."
    )


def _needed(model: BlockModel, blocks: list[Shapes], window: int, batch: int, length: int) -> int:
    experts = int(getattr(model.model.config, "num_experts_per_tok", None) or 1)
    return max(
        window_bytes(
            [shape for block in blocks[begin : begin + window] for shape in block.values()],
            batch,
            length,
            experts=experts,
        )
        for begin in range(0, len(blocks), window)
    )


def _available(device: torch.device) -> int | None:
    """Return how many bytes are free there; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()
