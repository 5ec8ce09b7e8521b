"""Run a decoder on ONNX Runtime: logits of whole sequences, and generation with a cache."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from castline.compiler.targets.cache import Cache, CacheLayout, GrowingCache, SharedCache
from castline.compiler.targets.context import noted_context
from castline.compiler.targets.generation import GREEDY, Tokens, following_tokens
from castline.compiler.targets.runtime import (
    Logits,
    float32_from_ortvalue,
    inference_session,
    runtime_errors,
)
from castline.compiler.targets.sampling import Sampling
from castline.errors import TargetError
from castline.exporters.names import LAST_HIDDEN_STATE, WRITE_INDICES

if TYPE_CHECKING:
    import onnxruntime

    from castline.compiler.targets.options import LogitsOf

# ONNX Runtime's words for the values of onnx.TensorProto.DataType.
ONNX_TYPES = {
    "tensor(float)": 1,
    "tensor(int8)": 3,
    "tensor(float16)": 10,
    "tensor(bfloat16)": 16,
}


@dataclass(frozen=True)
class RunConfig:
    """The parts of `genai_config.json` that running a model needs; each has a default."""

    file: str = "model.onnx"
    context_length: int | None = None
    head_size: int | None = None
    shared_cache: bool = False


class DecoderSession:
    """A decoder graph, loaded: the graph of a whole model with its cache as inputs and outputs."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        layout: CacheLayout,
        *,
        shared_cache: bool,
        context_length: int | None,
    ) -> None:
        self.session = session
        self.layout = layout
        self.shared_cache = shared_cache
        self.context_length = context_length

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        logits: LogitsOf = "all",
    ) -> DecoderSession:
        """Load an output folder, or one `.onnx` file.

        `logits` "last" is enough to generate text: a model that was cut to the last logits runs as
        it is then, and gives [B, 1, V] where [B, S, V] is said; "all" undoes the cut in memory.
        `threads` is the number of threads that one operator may use (None: ONNX Runtime decides);
        `providers` are ONNX Runtime's execution providers (None: CUDA if installed, then CPU).
        Raises TargetError if ONNX Runtime is missing, or cannot load or run the file.
        """
        config = run_config(Path(path))
        model = Path(path) / config.file if Path(path).is_dir() else Path(path)
        session = inference_session(model, threads, providers, logits=logits)
        layout = cache_layout(session, model, config.head_size)
        context = config.context_length or noted_context(session)
        lengths = [length for length in (context, layout.capacity) if length is not None]
        return cls(
            session,
            layout,
            shared_cache=config.shared_cache,
            context_length=min(lengths, default=None),
        )

    def logits(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Logits:
        """Return the logits [B, S, V] of `input_ids` [B, S], read from the beginning.

        `attention_mask` [B, S] is 1 for tokens and 0 for padding; None means no padding.
        """
        return self.begin(*input_ids.shape).step(input_ids, attention_mask)

    def begin(self, batch: int, capacity: int) -> Decoding:
        """Begin `batch` sequences that will have at most `capacity` tokens, none of them yet."""
        room = self.layout.capacity or capacity
        if capacity > room:
            raise TargetError(
                f"{capacity} tokens asked for, but the model's cache has room for {room}. Give a "
                "shorter prompt or text."
            )
        if self.context_length is not None and capacity > self.context_length:
            raise TargetError(
                f"{capacity} tokens asked for, but the model's context length is "
                f"{self.context_length}. Give a shorter prompt or text."
            )
        cache: Cache = (
            SharedCache(self.layout, batch, room)
            if self.shared_cache or self.layout.fixed
            else GrowingCache(self.layout, batch)
        )
        return Decoding(self, cache, batch, room)

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
        is full, whichever comes first.
        """
        return following_tokens(
            self, input_ids, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop
        )


@dataclass(frozen=True)
class Mark:
    """A place in sequences that are being decoded."""

    mask: Tokens
    held: tuple[onnxruntime.OrtValue, ...]


class Decoding:
    """Sequences being decoded: their attention mask, and their cache inside ONNX Runtime."""

    def __init__(self, decoder: DecoderSession, cache: Cache, batch: int, capacity: int) -> None:
        self._session = decoder.session
        self._cache = cache
        self._capacity = capacity
        self._binding = decoder.session.io_binding()
        self._inputs = {node.name for node in decoder.session.get_inputs()}
        self._fixed = decoder.layout.fixed
        self._mask: Tokens = np.empty((batch, 0), dtype=np.int64)

    def step(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Logits:
        """Return the logits [B, S, V] of the next tokens `input_ids` [B, S], and remember them.

        `attention_mask` [B, S] belongs to these tokens alone; None means no padding among them.
        """
        total = self._mask.shape[1] + input_ids.shape[1]
        if total > self._capacity:
            # A shared cache would be written beyond its end.
            raise TargetError(f"{total} tokens decoded, but begun with room for {self._capacity}.")
        new_mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
        self._mask = np.concatenate([self._mask, new_mask.astype(np.int64)], axis=1)
        positions = np.maximum(self._mask.cumsum(axis=1) - 1, 0)[:, -input_ids.shape[1] :]
        feed = {
            "input_ids": np.ascontiguousarray(input_ids, dtype=np.int64),
            "attention_mask": self._mask,
            "position_ids": np.ascontiguousarray(positions),
        }
        if self._fixed:
            feed |= fixed_cache_feed(self._mask, input_ids.shape[1], self._capacity)
        for name in self._inputs & feed.keys():
            self._binding.bind_cpu_input(name, feed[name])
        # The caller reads the logits, so they come to the host; the cache stays on the device.
        self._binding.bind_output("logits")
        self._cache.bind(self._binding)
        self._run()
        logits, *presents = self._binding.get_outputs()
        self._cache.keep(presents)
        return float32_from_ortvalue(logits)

    def mark(self) -> Mark:
        """Return this place in the sequences, to come back to by `rewind`."""
        return Mark(self._mask, self._cache.held())

    def rewind(self, mark: Mark) -> None:
        """Forget the tokens after a mark of this decoding; those before it are not read again."""
        self._mask = mark.mask
        self._cache.restore(mark.held)

    def _run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except runtime_errors() as error:
            raise TargetError(f"ONNX Runtime could not run the model: {error}") from error


def fixed_cache_feed(attention_mask: Tokens, new: int, capacity: int) -> dict[str, Tokens]:
    """Return what a fixed cache of `capacity` tokens asks for, for a mask [B, total].

    `new` is how many of these tokens are new: they are written behind the others.
    """
    rows, total = attention_mask.shape
    padded = np.zeros((rows, capacity), np.int64)
    padded[:, :total] = attention_mask
    return {"attention_mask": padded, WRITE_INDICES: np.full(rows, total - new, np.int64)}


def run_config(path: Path) -> RunConfig:
    """Return what `genai_config.json` beside the model says, or the defaults without one."""
    file = (path if path.is_dir() else path.parent) / "genai_config.json"
    if not file.is_file():
        return RunConfig()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        decoder = content["model"]["decoder"]
        return RunConfig(
            file=str(decoder.get("filename", RunConfig.file)),
            context_length=content["model"].get("context_length"),
            head_size=decoder.get("head_size"),
            shared_cache=bool(content.get("search", {}).get("past_present_share_buffer", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TargetError(
            f"{file}: not a configuration of a decoder ({error!r}). Compile the model again, or "
            "remove the file to run the .onnx file by itself."
        ) from error


def cache_layout(
    session: onnxruntime.InferenceSession, model: Path, head_size: int | None
) -> CacheLayout:
    """Return the layout of the cache inputs, or raise TargetError if this is not a decoder."""
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if LAST_HIDDEN_STATE in outputs:
        raise TargetError(
            f"{model} is an encoder: it gives a vector for each token and writes no text. Vectors "
            f"of texts: castline embed {model.parent} TEXT."
        )
    pasts = [name for name in inputs if re.fullmatch(r"past_key_values\.\d+\.(key|value)", name)]
    pairs = tuple((past, past.replace("past_key_values", "present")) for past in pasts)
    expected = ["input_ids", "attention_mask", *(() if pairs else ["past_key_values.0.key"])]
    missing = [name for name in expected if name not in inputs]
    missing += [name for name in ("logits", *(p for _, p in pairs)) if name not in outputs]
    if missing:
        raise TargetError(
            f"{model} is not a decoder with a cache: it has no {', '.join(missing)}. Its inputs "
            f"are {', '.join(inputs)}; its outputs are {', '.join(sorted(outputs))}."
        )
    # Some exporters leave the head size symbolic and write it into the configuration alone.
    sizes = [(inputs[past].shape[1], inputs[past].shape[3]) for past in pasts]
    sizes = [(heads, head_size if isinstance(width, str) else width) for heads, width in sizes]
    types = {inputs[past].type for past in pasts}
    known = all(isinstance(size, int) for pair in sizes for size in pair)
    if not known or len(types) > 1 or not types <= set(ONNX_TYPES):
        raise TargetError(
            f"{model}: the cache inputs must be [batch, kv_heads, past, head_size] with kv_heads "
            f"and head_size known, all of one floating-point type or int8; {pasts[0]} is "
            f"{inputs[pasts[0]].shape}, {inputs[pasts[0]].type}."
        )
    device = "cuda" if session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
    fixed, rooms = WRITE_INDICES in inputs, {inputs[past].shape[2] for past in pasts}
    capacity = next((room for room in rooms if fixed and isinstance(room, int)), None)
    return CacheLayout(
        pairs,
        tuple(sizes),
        ONNX_TYPES[types.pop()],
        device,
        fixed=fixed,
        capacity=capacity,
    )
