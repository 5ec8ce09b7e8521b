"""Correct a window of blocks against the float model, and carry what leaves it to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch

from castline.compiler.plan.decisions import PlannedBlock, PlannedCorrection
from castline.compiler.quant.scheme import ActivationScheme
from castline.compiler.recipes.reassembly import Correction
from castline.compiler.search.attention_reads import attention_reading
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.correction import Learned, learn, relative_error
from castline.compiler.search.hidden_states import HiddenStates, HiddenStatesWriter
from castline.compiler.search.linear_calls import LinearCalls
from castline.compiler.search.observation import Reader
from castline.compiler.search.planned_linears import PlannedLinears
from castline.compiler.search.prepared_block import PreparedBlock
from castline.compiler.search.student import Student, StudentLinear

Tensor: TypeAlias = torch.Tensor


@dataclass(frozen=True)
class Batches:
    """What enters the quantized window and what leaves the float one, batch by batch."""

    entering: HiddenStates
    target: HiddenStates
    samples: int
    """Of a batch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pair = self.entering.batches(self.samples), self.target.batches(self.samples)
        yield from zip(*pair, strict=True)


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive blocks in memory, decided but for their codes."""

    model: BlockModel
    blocks: tuple[PreparedBlock, ...]
    attention: ActivationScheme | None
    """How queries, keys and values are quantized; None: they are float."""

    def corrected(
        self,
        batches: Batches,
        settings: Correction,
        seed: int,
        leaving: Path,
        advance: Callable[[float], None],
    ) -> tuple[PlannedBlock, ...]:
        """Return the blocks with codes of corrected weights, where these are better.

        `leaving` is where what leaves the quantized window is written. Source: Liu et al., QLLM,
        arXiv:2310.08041, section 4.2. Differs: where the merged weights' codes lose more than the
        uncorrected ones, these are taken.
        """
        plain = tuple(block.planned({}) for block in self.blocks)
        learned = learn(self._student(plain), batches, settings, seed, advance)
        chosen, loss = plain, learned.loss_before
        if learned.loss_learned < learned.loss_before:
            chosen = self._merged(learned)
            loss = self._through(chosen, batches, leaving)
        better = loss < learned.loss_before
        if not better:
            chosen = plain
            self._through(plain, batches, leaving)
        correction = self._correction(learned, loss, merged=better)
        return tuple(replace(block, correction=correction) for block in chosen)

    def _merged(self, learned: Learned) -> tuple[PlannedBlock, ...]:
        """Return the blocks with codes of the weights that what was learned is added to."""
        deltas = {reader: learned.delta(reader) for reader in learned.low_rank}
        return tuple(block.planned(deltas) for block in self.blocks)

    def _student(self, planned: Sequence[PlannedBlock]) -> Student:
        linears: dict[Reader, StudentLinear] = {}
        for block, prepared in zip(planned, self.blocks, strict=True):
            linears |= PlannedLinears(block).students(prepared.parameters)
        parameters = {n: each for one in self.blocks for n, each in one.parameters.items()}
        return Student(linears, parameters, self._learning)

    def _learning(self, hidden: Tensor) -> Tensor:
        with attention_reading(self.attention):
            for block in self.blocks:
                hidden = self.model.run_learning(block.index, hidden)
        return hidden

    def _through(self, planned: Sequence[PlannedBlock], batches: Batches, path: Path) -> float:
        """Write what leaves the quantized window; return its relative squared error."""
        answers = [PlannedLinears(block) for block in planned]
        error = count = 0.0
        samples, length, _ = batches.entering.shape
        with (
            HiddenStatesWriter(path, samples, length) as writer,
            attention_reading(self.attention),
        ):
            for entering, target in batches:
                hidden = entering
                for block, answer in zip(self.blocks, answers, strict=True):
                    with LinearCalls(_only(block.parameters, answer.names), answer):
                        hidden = self.model.run(block.index, hidden)
                writer.append(hidden)
                tokens = target[..., 0].numel()
                error += tokens * float(relative_error(hidden.cpu(), target))
                count += tokens
        return error / count

    def _correction(self, learned: Learned, loss: float, *, merged: bool) -> PlannedCorrection:
        return PlannedCorrection(
            first=self.blocks[0].index,
            blocks=len(self.blocks),
            loss_before=learned.loss_before,
            loss_learned=learned.loss_learned,
            loss_merged=loss,
            epochs=learned.epochs,
            merged=merged,
        )


def _only(parameters: Mapping[str, Tensor], names: frozenset[str]) -> dict[str, Tensor]:
    return {name: each for name, each in parameters.items() if name in names}
