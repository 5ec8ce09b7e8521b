"""Read from an engine's tensors what a loop over tokens must know."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from castline.compiler.targets.tensorrt.engine import Context, Engine, Shape, Tensor
from castline.errors import TargetError
from castline.exporters.names import (
    ATTENTION_MASK,
    INPUT_IDS,
    LAST_HIDDEN_STATE,
    LOGITS,
    PAST_PREFIX,
    POSITION_IDS,
    PRESENT_PREFIX,
    WRITE_INDICES,
)

_FED = (INPUT_IDS, ATTENTION_MASK, POSITION_IDS, WRITE_INDICES)


@dataclass(frozen=True)
class EngineLayout:
    """A decoder's inputs and outputs.

    `fed` are the inputs that the host fills; `caches` the past and the present of each cache
    tensor, [batch, KV heads, tokens, head size].
    """

    fed: tuple[Tensor, ...]
    caches: tuple[tuple[Tensor, Tensor], ...]
    logits: Tensor

    @property
    def fixed(self) -> bool:
        """Whether caches have a fixed capacity and are written in place."""
        return any(tensor.name == WRITE_INDICES for tensor in self.fed)

    @property
    def batch(self) -> int:
        """The most sequences at a time."""
        return self._ids.largest[0]

    @property
    def longest(self) -> int:
        """The most new tokens of a sequence in one run."""
        return self._ids.largest[1]

    @property
    def reader(self) -> int:
        """The profile of the longest sequences."""
        ranges = self._ids.ranges
        return max(range(len(ranges)), key=lambda profile: ranges[profile][1][1])

    @property
    def room(self) -> int:
        """How many tokens of a sequence the caches hold."""
        past = self.caches[0][0]
        return past.largest[2] if self.fixed else past.largest[2] + self.longest

    @property
    def reach(self) -> int:
        """How many tokens a sequence may have that grows token by token."""
        past = self.caches[0][0]
        if self.fixed:
            return past.largest[2]
        of_one = [
            past.ranges[profile][1][2]
            for profile in range(len(past.ranges))
            if self._ids.ranges[profile][0][1] == 1
        ]
        return max(of_one, default=0) + 1

    @property
    def replayed(self) -> tuple[int, ...]:
        """The profiles whose runs all have the same shapes: one token, into a fixed cache."""
        if not self.fixed:
            return ()
        ranges = self._ids.ranges
        return tuple(profile for profile in range(len(ranges)) if ranges[profile][1][1] == 1)

    @property
    def vocabulary(self) -> int:
        """How many logits a token has."""
        return self.logits.shape[2]

    @property
    def last_logits_alone(self) -> bool:
        """Whether the engine gives the logits of the last of the new tokens alone."""
        return self.logits.shape[1] == 1

    def shapes(self, batch: int, new: int, past: int) -> dict[str, Shape]:
        """Return the shape of every input in a run of `new` tokens behind `past` others."""
        total = self.room if self.fixed else past + new
        known = {
            INPUT_IDS: (batch, new),
            POSITION_IDS: (batch, new),
            ATTENTION_MASK: (batch, total),
            WRITE_INDICES: (batch,),
        }
        shapes: dict[str, Shape] = {tensor.name: known[tensor.name] for tensor in self.fed}
        for cache, _ in self.caches:
            _, heads, _, size = cache.shape
            shapes[cache.name] = (batch, heads, self.room if self.fixed else past, size)
        return shapes

    @property
    def _ids(self) -> Tensor:
        return next(tensor for tensor in self.fed if tensor.name == INPUT_IDS)


def engine_layout(engine: Engine) -> EngineLayout:
    """Return the layout of a decoder's engine, or raise TargetError if it is something else."""
    tensors = engine.tensors
    pasts = [name for name in tensors if re.fullmatch(rf"{PAST_PREFIX}\d+\.(key|value)", name)]
    pairs = [(past, PRESENT_PREFIX + past.removeprefix(PAST_PREFIX)) for past in pasts]
    expected = [INPUT_IDS, LOGITS, *(present for _, present in pairs)]
    if not pairs:
        expected.append(f"{PAST_PREFIX}0.key")
    missing = [name for name in expected if name not in tensors]
    inputs = [name for name, tensor in tensors.items() if tensor.is_input]
    unknown = [name for name in inputs if name not in (*_FED, *pasts)]
    if missing or unknown:
        raise TargetError(_no_decoder(engine.path, tensors, missing, unknown))
    layout = EngineLayout(
        fed=tuple(tensors[name] for name in _FED if name in tensors),
        caches=tuple((tensors[past], tensors[present]) for past, present in pairs),
        logits=tensors[LOGITS],
    )
    if engine.tells_aliases:
        _require_in_place(engine.path, layout)
    sizes = [(past.shape[1], past.shape[3]) for past, _ in layout.caches]
    if any(size < 1 for pair in (*sizes, (layout.vocabulary,)) for size in pair):
        raise TargetError(
            f"{engine.path}: its caches {pasts[0]} {list(layout.caches[0][0].shape)} or its logits "
            f"{list(layout.logits.shape)} have an open size (-1) where one number is expected. "
            "Compile the model again."
        )
    return layout


def with_seen_rows(layout: EngineLayout, context: Context, profile: int) -> EngineLayout:
    """Return the layout with the one row of logits that an engine of last logits has.

    The row comes from a slice, whose length TensorRT leaves open (-1) until inputs have shapes; so
    `context` gets the largest of its `profile`, which should be that of the longest sequences.
    """
    if layout.logits.shape[1] != -1:
        return layout
    for tensor in (*layout.fed, *(past for past, _ in layout.caches)):
        context.shape(tensor.name, tensor.ranges[profile][1])
    if context.shape_of(layout.logits.name)[1] != 1:
        return layout
    one = (layout.logits.shape[0], 1, layout.vocabulary)
    return replace(layout, logits=replace(layout.logits, shape=one))


def _require_in_place(path: Path, layout: EngineLayout) -> None:
    """Raise TargetError unless TensorRT, too, updates fixed caches in place, and no others."""
    wrong = [
        f"{present.name} is in {present.alias or 'memory of its own'}"
        for past, present in layout.caches
        if present.alias != (past.name if layout.fixed else None)
    ]
    if wrong:
        expected = "a cache that grows is written to memory of its own"
        if layout.fixed:
            expected = "a fixed cache is written over its past"
        raise TargetError(
            f"{path}: TensorRT says of its outputs that {', '.join(wrong)}, but {expected}. "
            "Build the engine again with Castline: castline build."
        )


def _no_decoder(
    path: Path, tensors: dict[str, Tensor], missing: list[str], unknown: list[str]
) -> str:
    if LAST_HIDDEN_STATE in tensors:
        return (
            f"{path} is an encoder's engine: it gives a vector for each token and writes no text. "
            f"Vectors of texts, by the graph it was built from: castline embed {path.parent} TEXT."
        )
    wrong = [f"has no {name}" for name in missing] + [f"wants {name}" for name in unknown]
    return (
        f"{path} is not the engine of a decoder with a cache: it {', '.join(wrong)}. It has "
        f"{', '.join(tensors)}. Expected {', '.join(_FED)} and the caches as inputs."
    )
