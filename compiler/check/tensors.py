"""Compare a result with its original tensor by tensor, by Polygraphy: logits and cache."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.comparator import Comparator
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from castline.compiler.check.graph_run import GraphRun
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.original_runner import (
    Feed,
    OriginalRunner,
    Run,
    decoder_run,
    empty_past,
)
from castline.compiler.targets.context import has_own_cache
from castline.compiler.targets.growing_view import GrowingView, growing_view
from castline.compiler.targets.runtime import runtime_errors
from castline.errors import OutputError, TargetError
from castline.exporters.names import (
    ATTENTION_MASK,
    INPUT_IDS,
    PAST_PREFIX,
    POSITION_IDS,
    PRESENT_PREFIX,
    SLOTS,
    past_name,
    present_name,
)
from castline.exporters.torch_model import positions

if TYPE_CHECKING:
    import onnxruntime

Tokens: TypeAlias = NDArray[np.int64]
Array: TypeAlias = NDArray[np.generic]

_CACHE_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}


@dataclass(frozen=True)
class TensorFigure:
    """How far one output is from the original's, over the tokens that are not padding.

    `relative_error` is max |result - original| / max |original|; `cosine` is that of both tensors
    as vectors. A value that is not finite makes both nan.
    """

    name: str
    relative_error: float
    cosine: float

    def __bool__(self) -> bool:
        """Polygraphy asks whether the outputs match: here that is the gate's to say."""
        return True


@dataclass(frozen=True)
class TensorFigures:
    """The figure of every output, the worse of prefill and decode."""

    outputs: tuple[TensorFigure, ...]

    def of(self, name: str) -> TensorFigure:
        """Return the figure of one output, by its name in the graph."""
        return next(figure for figure in self.outputs if figure.name == name)

    @property
    def worst_relative_error(self) -> TensorFigure:
        """The output whose relative error is the largest, nan before all."""
        return self.outputs[int(np.argmax([figure.relative_error for figure in self.outputs]))]

    @property
    def worst_cosine(self) -> TensorFigure:
        """The output whose cosine is the smallest, nan before all."""
        return self.outputs[int(np.argmin([figure.cosine for figure in self.outputs]))]


def compare_tensors(
    original: OriginalModel | GraphRun,
    session: onnxruntime.InferenceSession,
    tokens: Tokens,
    *,
    padding: int = 0,
) -> TensorFigures:
    """Return the figures of every output of `session` for `tokens` [B, S].

    Two runs are compared: a prefill of all tokens but the last, then a decode step of the last,
    each with the cache that it made itself. What a result caches in a way of its own, as codes or
    scaled, is not compared. The first `padding` tokens of the first row are masked as padding on
    the left; leave it 0 for graphs that do not take padding on that side.
    Raises TargetError if ONNX Runtime refuses a run.
    """
    result = growing_view(session)
    mask = np.ones_like(tokens)
    mask[0, :padding] = 0
    read: Run
    if isinstance(original, GraphRun):
        read, own = original, original.empty_past(len(tokens))
        own_cache = has_own_cache(original.session)
    else:
        read, own = decoder_run(original), empty_past(original, batch=len(tokens))
        own_cache = False
    types = {node.name: node.type for node in result.get_inputs()}
    past = {
        name: array.astype(_CACHE_TYPES.get(types.get(name, ""), np.float32))
        for name, array in own.items()
    }
    figures: list[TensorFigure] = []
    for new in (slice(0, -1), slice(-1, None)):
        feed = {
            INPUT_IDS: np.ascontiguousarray(tokens[:, new]),
            ATTENTION_MASK: np.ascontiguousarray(mask[:, : new.stop]),
            POSITION_IDS: np.ascontiguousarray(positions(mask)[:, new]),
            **past,
        }
        if POSITION_IDS not in types:
            del feed[POSITION_IDS]  # ALiBi counts the mask
        run = _with_past(read, own)
        compared, expected, found = compare_run(run, result, feed, own_cache=own_cache)
        figures += compared
        own, past = _next_past(own, expected), _next_past(past, found)
    return worse_of_runs(figures)


def _with_past(run: Run, past: Feed) -> Run:
    """Return a run that reads `past`, whatever past its feed has."""
    return lambda feed: run({**feed, **past})


def _next_past(past: Feed, outputs: Mapping[str, Array]) -> dict[str, Array]:
    layers = range(len(past) // len(SLOTS))
    return {past_name(i, slot): outputs[present_name(i, slot)] for i in layers for slot in SLOTS}


def compare_run(
    original: Run,
    session: onnxruntime.InferenceSession | GrowingView,
    feed: Feed,
    *,
    own_cache: bool = False,
) -> tuple[list[TensorFigure], Mapping[str, Array], Mapping[str, Array]]:
    """Run both on one feed; return the figure of every output, and the outputs of both.

    `own_cache` says that the original's caches cannot be compared; the session says it of its own.
    """
    _require_same_depth(feed, session)
    runners = [OriginalRunner(original, feed), OnnxrtRunner(session, name="result")]
    own_cache = own_cache or has_own_cache(session)
    return compare_runners(runners, feed, figures_of_tokens(feed[ATTENTION_MASK], own_cache))


def _require_same_depth(feed: Feed, session: onnxruntime.InferenceSession | GrowingView) -> None:
    """Raise OutputError where the result has not the caches that the original is fed with."""
    taken = [node.name for node in session.get_inputs()]
    own, other = (
        sum(name.startswith(PAST_PREFIX) for name in names) // len(SLOTS) for names in (feed, taken)
    )
    if other and own != other:
        raise OutputError(
            f"The result has the caches of {other} layers, and the original of {own}: they are not "
            "the same model, and cannot be compared."
        )


def compare_runners(
    runners: Sequence[BaseRunner],
    feed: Feed,
    compare: Callable[[Feed, Feed], OrderedDict[str, TensorFigure]],
) -> tuple[list[TensorFigure], Mapping[str, Array], Mapping[str, Array]]:
    """Run two of Polygraphy's runners on one feed, and compare what they give.

    Raises TargetError if one of them cannot run.
    """
    try:
        with quiet_polygraphy():
            runs = Comparator.run(runners, data_loader=[feed])
            accuracy = Comparator.compare_accuracy(runs, compare_func=compare)
    except (PolygraphyException, *runtime_errors()) as error:
        raise TargetError(f"The result cannot be run for comparison: {error}") from error
    ((_, iterations),) = accuracy[0].items()
    return list(iterations[0].values()), runs[0][1][0], runs[1][1][0]


def figures_of_tokens(
    attention_mask: Array,
    own_cache: bool = False,
) -> Callable[[Feed, Feed], OrderedDict[str, TensorFigure]]:
    """Return a comparison for Polygraphy that leaves padding out, for a mask [B, total].

    With `own_cache`, caches are left out, too.
    """
    tokens = attention_mask.astype(bool)

    def at_tokens(array: Array) -> Array:
        # Logits and hidden states are [B, new, ...]; the cache is [B, heads, total, size].
        rows = array if array.ndim == 3 else array.swapaxes(1, 2)
        selected: Array = rows[tokens[:, -rows.shape[1] :]]
        return selected

    def compare(original: Feed, result: Feed) -> OrderedDict[str, TensorFigure]:
        shapes = {name: array.shape for name, array in result.items()}
        if wrong := [
            f"{name} is {shapes.get(name, 'not there')}, expected {reference.shape}"
            for name, reference in original.items()
            if shapes.get(name) != reference.shape
        ]:
            raise TargetError(f"The result has other outputs: {'; '.join(wrong)}.")
        return OrderedDict(
            (name, tensor_figure(name, at_tokens(reference), at_tokens(result[name])))
            for name, reference in original.items()
            if not (own_cache and name.startswith(PRESENT_PREFIX))
        )

    return compare


def tensor_figure(name: str, original: Array, result: Array) -> TensorFigure:
    """Return how far `result` is from `original`, arrays of one shape."""
    a = original.astype(np.float64).ravel()
    b = result.astype(np.float64).ravel()
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return TensorFigure(name, math.nan, math.nan)
    apart = float(np.abs(a - b).max())
    if apart == 0:
        return TensorFigure(name, 0.0, 1.0)
    size = float(np.abs(a).max())
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return TensorFigure(
        name,
        relative_error=apart / size if size else math.inf,
        cosine=min(1.0, float(a @ b) / lengths) if lengths else 0.0,
    )


def worse_of_runs(figures: Sequence[TensorFigure]) -> TensorFigures:
    """Return one figure a name, with the worse of each number."""
    by_name: dict[str, list[TensorFigure]] = {}
    for figure in figures:
        by_name.setdefault(figure.name, []).append(figure)
    # NumPy's max and min keep a nan, where Python's may lose it.
    return TensorFigures(
        tuple(
            TensorFigure(
                name,
                relative_error=float(np.max([run.relative_error for run in runs])),
                cosine=float(np.min([run.cosine for run in runs])),
            )
            for name, runs in by_name.items()
        )
    )


@contextmanager
def quiet_polygraphy() -> Iterator[None]:
    """Keep Polygraphy from printing: what it has to say comes back as figures and exceptions."""
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
        yield
