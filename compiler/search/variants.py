"""Run variants of a model side by side, each with other linears quantized, and compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from castline.compiler.graph.folds.site import Site
from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.divergence import divergence_sum, likelihood_sum
from castline.compiler.search.hidden_states import HiddenStates, HiddenStatesWriter
from castline.compiler.search.linear_calls import LinearCalls
from castline.compiler.search.planned_linears import PlannedLinears, fold_planned
from castline.progress import Progress

Tokens: TypeAlias = NDArray[np.int64]
Variant: TypeAlias = AbstractSet[str]
"""Names of the weights of the linears that are quantized in it; the others are in float."""


@dataclass(frozen=True)
class Prediction:
    """How well a variant predicts a text."""

    kl_divergence: float
    """Mean of KL(float || variant) a token, in nats."""
    perplexity: float


def predictions(
    model: BlockModel,
    plan: QuantPlan,
    sites: Mapping[str, Site],
    variants: Sequence[Variant],
    tokens: Tokens,
    folder: Path,
    progress: Progress,
) -> tuple[Prediction, ...]:
    """Return how each variant predicts `tokens` [samples, length], folded and quantized by `plan`.

    `sites` has the graph's by the names of their values, which the plan refers to. The weights of
    one block are in memory at a time, and are read once for all variants. A variant is the float
    model up to its first quantized block, so it is run from there on only. The hidden
    states between blocks are files in `folder`. Raises OutputError where they cannot be written.
    """
    original = _entering(model, tokens, folder / "float.npy")
    states: list[HiddenStates | None] = [None] * len(variants)
    title = f"Running {len(variants)} variants through the blocks"
    with progress.stage(title, len(model.blocks), "blocks") as advance:
        for index, planned in enumerate(plan.blocks):
            with model.loaded(index):
                fold_planned(planned, sites, model.parameters(index))
                block = _Block(model, index, PlannedLinears(planned))
                for number, variant in enumerate(variants):
                    before = states[number]
                    if before is None and not block.planned.names & variant:
                        continue
                    path = folder / f"variant-{number}.npy"
                    states[number] = block.through(before or original, path, variant)
                original = block.through(original, original.path, frozenset())
            advance(1)
    with progress.stage("Comparing predictions", len(tokens), "samples") as advance:
        sums = np.zeros((len(variants), 2))
        for rows in _compared(model, tokens, original, states):
            sums += rows
            advance(1)
    means = sums / (tokens.shape[0] * (tokens.shape[1] - 1))
    return tuple(Prediction(float(kl), _exponential(float(nll))) for kl, nll in means)


@dataclass(frozen=True)
class _Block:
    """A loaded block, and how its linears are quantized."""

    model: BlockModel
    index: int
    planned: PlannedLinears

    def through(self, entering: HiddenStates, path: Path, variant: Variant) -> HiddenStates:
        """Return what leaves the block, with the linears of `variant` quantized."""
        parameters = self.model.parameters(self.index)
        chosen = {name: parameters[name] for name in sorted(self.planned.names & variant)}
        with HiddenStatesWriter(path, *entering.shape[:2]) as writer:
            for sample in entering.batches(1):  # dynamic scales of a tensor are one sample's
                with torch.inference_mode(), LinearCalls(chosen, self.planned):
                    writer.append(self.model.run(self.index, sample))
        return HiddenStates(path)


def _entering(model: BlockModel, tokens: Tokens, path: Path) -> HiddenStates:
    """Return what enters the first block."""
    with HiddenStatesWriter(path, *tokens.shape) as writer:
        for sample in model.entering(tokens, rows=1):
            writer.append(sample)
    return HiddenStates(path)


def _compared(
    model: BlockModel,
    tokens: Tokens,
    original: HiddenStates,
    states: Sequence[HiddenStates | None],
) -> Iterator[NDArray[np.float64]]:
    """Yield for each sample the sums of KL and of negative log likelihood, [variants, 2]."""
    others = [None if one is None else one.batches(1) for one in states]
    for sample, hidden in zip(tokens, original.batches(1), strict=True):
        ids = torch.from_numpy(sample).to(model.device)
        logits = model.logits(hidden)[0]
        same = (0.0, likelihood_sum(logits, ids))
        sums = [same if one is None else _sums(model, logits, next(one), ids) for one in others]
        yield np.array(sums, np.float64)


def _sums(
    model: BlockModel, original: torch.Tensor, hidden: torch.Tensor, ids: torch.Tensor
) -> tuple[float, float]:
    logits = model.logits(hidden)[0]
    return divergence_sum(original, logits), likelihood_sum(logits, ids)


def _exponential(value: float) -> float:
    """Return exp(value), which is inf where it is beyond what a float holds."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))
