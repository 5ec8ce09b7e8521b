"""Run the engine of a decoder on a GPU: logits, and generation with its cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from castline.compiler.targets.generation import GREEDY, Tokens, following_tokens
from castline.compiler.targets.sampling import Sampling
from castline.compiler.targets.session import fixed_cache_feed
from castline.compiler.targets.tensorrt.cuda import Cuda
from castline.compiler.targets.tensorrt.engine import Context, Engine, Shape
from castline.compiler.targets.tensorrt.engine_buffers import EngineCache, Fed, LogitsBuffer
from castline.compiler.targets.tensorrt.engine_layout import engine_layout, with_seen_rows
from castline.compiler.targets.tensorrt.replay import Replay
from castline.errors import TargetError
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS, LOGITS, POSITION_IDS


class EngineSession:
    """An engine, loaded: a context for each profile, and buffers for the largest shapes.

    For one thread and one text at a time: a new `begin` ends the sequences of the last.
    """

    def __init__(
        self,
        engine: Engine,
        cuda: Cuda,
        *,
        batch: int = 1,
        context_length: int | None = None,
        cuda_graph: bool = True,
    ) -> None:
        """Make contexts and buffers for `batch` sequences at a time.

        `context_length` is the model's (None: unknown). `cuda_graph` replays decoding steps where
        their shapes stay the same, which is with a cache of fixed capacity.
        Raises TargetError for an engine that is no decoder's, and where the GPU has no room.
        """
        self.engine = engine
        layout = engine_layout(engine)
        if batch > layout.batch:
            raise TargetError(
                f"{engine.path}: takes {layout.batch} sequences at a time, {batch} asked for."
            )
        self.batch = batch
        self.context_length = min(layout.reach, context_length or layout.reach)
        self.stream = cuda.stream()
        replayed = layout.replayed if cuda_graph else ()
        # One for all: their runs are put into one stream, so no two of them work at a time.
        working = cuda.allocate(engine.working_memory, "what the engine works in")
        self._contexts = {
            profile: engine.context(
                profile, self.stream.handle, working, replays=profile in replayed
            )
            for profile in range(engine.profiles)
        }
        self._replays = {
            profile: Replay(self._contexts[profile], self.stream)
            for profile in replayed
            if not engine.replays_itself
        }
        self.layout = layout = with_seen_rows(layout, self._contexts[layout.reader], layout.reader)
        largest = layout.shapes(batch, layout.longest, layout.room - layout.longest)
        self.fed = {t.name: Fed(t, largest[t.name], cuda) for t in layout.fed}
        self.logits_buffer = LogitsBuffer(layout, batch, cuda)
        self.cache = EngineCache(layout, batch, cuda)

    @classmethod
    def open(
        cls,
        path: Path,
        tensorrt: Any,
        *,
        cuda: Cuda,
        batch: int = 1,
        context_length: int | None = None,
        cuda_graph: bool = True,
        host_code: bool = False,
    ) -> Self:
        """Load the engine at `path` by the module tensorrt or tensorrt_rtx.

        The plugins that it needs are registered before; `host_code` lets it bring code for the
        host, as version-compatible engines do. Raises TargetError if TensorRT does not take it, and
        as the constructor does.
        """
        engine = Engine(path, tensorrt, host_code=host_code)
        return cls(engine, cuda, batch=batch, context_length=context_length, cuda_graph=cuda_graph)

    def logits(
        self, input_ids: Tokens, attention_mask: Tokens | None = None
    ) -> NDArray[np.float32]:
        """Return the logits [B, S, V] of `input_ids` [B, S], read from the beginning.

        `attention_mask` [B, S] is 1 for tokens and 0 for padding; None means no padding.
        Raises TargetError for an engine that gives the logits of the last token alone.
        """
        if self.layout.last_logits_alone and input_ids.shape[1] > 1:
            raise TargetError(
                f"{self.engine.path}: gives the logits of the last token alone. Build it with "
                "--logits all to read those of every token."
            )
        return self.begin(*input_ids.shape).read(input_ids, attention_mask)

    def begin(self, batch: int, capacity: int) -> EngineDecoding:
        """Begin `batch` sequences that will have at most `capacity` tokens, none of them yet."""
        if batch > self.batch:
            raise TargetError(f"{batch} sequences asked for, but there is room for {self.batch}.")
        if capacity > self.layout.room:
            raise TargetError(self._too_long(capacity, self.layout.room))
        if self.layout.fixed:
            self.cache.clear(self.stream)
        return EngineDecoding(self, batch)

    def generate(
        self,
        input_ids: Tokens,
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop: frozenset[int] = frozenset(),
    ) -> Iterator[int]:
        """Yield what follows the prompt `input_ids` [1, S], token by token.

        Ends before the first token in `stop`, after `max_new_tokens`, or when the model's context
        or the engine's cache is full, whichever comes first.
        """
        if input_ids.shape[1] > self.context_length:
            raise TargetError(self._too_long(input_ids.shape[1], self.context_length))
        return following_tokens(
            self, input_ids, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop
        )

    def run(self, batch: int, new: int, past: int) -> None:
        """Put a run of what is filled into the stream, and a copy of its last rows behind it."""
        shapes = self.layout.shapes(batch, new, past)
        profile = self._profile(shapes)
        context = self._contexts[profile]
        for name, shape in shapes.items():
            context.shape(name, shape)
        for fed in self.fed.values():
            context.address(fed.name, fed.address)
        context.address(LOGITS, self.logits_buffer.address)
        self.cache.bind(context)

        def work() -> None:
            self._work(context, batch, new)

        if profile in self._replays:
            self._replays[profile].run(work)
        else:
            work()
        self.cache.advance()

    def _work(self, context: Context, batch: int, new: int) -> None:
        for fed in self.fed.values():
            fed.send(self.stream)
        context.enqueue(self.stream.handle)
        self.logits_buffer.fetch_last(batch, new, self.stream)

    def _profile(self, shapes: dict[str, Shape]) -> int:
        """Return the profile made for these shapes: of those that take them, the shortest."""
        tensors = self.engine.tensors
        ids = tensors[INPUT_IDS]
        taking = [
            profile
            for profile in self._contexts
            if all(tensors[name].takes(shape, profile) for name, shape in shapes.items())
        ]
        if taking:
            return min(taking, key=lambda profile: ids.ranges[profile][1][1])
        ranges = " or ".join(f"{list(low)} to {list(high)}" for low, high in ids.ranges)
        mask = shapes.get(ATTENTION_MASK, shapes[INPUT_IDS])
        raise TargetError(
            f"{self.engine.path}: takes {INPUT_IDS} of {ranges}, with no more tokens before them "
            f"than it was built for, not {list(shapes[INPUT_IDS])} of {mask[1]} in all. Build it "
            "for other shapes: castline build --help."
        )

    def _too_long(self, tokens: int, limit: int) -> str:
        return (
            f"{self.engine.path}: {tokens} tokens asked for, but it was built for {limit}. Give a "
            "shorter prompt or text, or build the engine for longer ones: castline build --help."
        )


class EngineDecoding:
    """Sequences being decoded: their attention mask, and how many tokens the cache has."""

    def __init__(self, session: EngineSession, batch: int) -> None:
        self._session = session
        self._mask: Tokens = np.empty((batch, 0), dtype=np.int64)

    def step(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> NDArray[np.float32]:
        """Return the logits [B, 1, V] behind the next tokens `input_ids` [B, S]; remember them.

        More tokens than the engine takes at a time are read in pieces. `attention_mask` [B, S]
        belongs to these tokens alone; None means no padding among them.
        """
        batch = input_ids.shape[0]
        for ids, mask in self._pieces(input_ids, attention_mask):
            self._run(ids, mask)
            # The next piece is written over this one's inputs.
            self._session.stream.wait()
        return self._session.logits_buffer.last(batch)

    def read(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> NDArray[np.float32]:
        """Return the logits [B, S, V] of the next tokens `input_ids` [B, S], and remember them."""
        session, batch = self._session, input_ids.shape[0]
        pieces = []
        for ids, mask in self._pieces(input_ids, attention_mask):
            self._run(ids, mask)
            pieces.append(session.logits_buffer.all(batch, ids.shape[1], session.stream))
        return np.concatenate(pieces, axis=1)

    def _pieces(
        self, input_ids: Tokens, attention_mask: Tokens | None
    ) -> Iterator[tuple[Tokens, Tokens]]:
        mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
        total = self._mask.shape[1] + input_ids.shape[1]
        if total > self._session.layout.room:
            raise TargetError(self._session._too_long(total, self._session.layout.room))
        longest = self._session.layout.longest
        for start in range(0, input_ids.shape[1], longest):
            yield input_ids[:, start : start + longest], mask[:, start : start + longest]

    def _run(self, ids: Tokens, mask: Tokens) -> None:
        session, (batch, new) = self._session, ids.shape
        past = self._mask.shape[1]
        self._mask = np.concatenate([self._mask, mask.astype(np.int64)], axis=1)
        values = {
            INPUT_IDS: ids,
            ATTENTION_MASK: self._mask,
            POSITION_IDS: np.maximum(self._mask.cumsum(axis=1) - 1, 0)[:, past:],
        }
        if session.layout.fixed:
            values |= fixed_cache_feed(self._mask, new, session.layout.room)
        for name, fed in session.fed.items():
            fed.fill(values[name])
        session.run(batch, new, past)
