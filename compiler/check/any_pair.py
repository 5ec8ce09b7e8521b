"""Open any two models to be compared: checkpoints in torch, graphs on ONNX Runtime, an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from castline.compiler.check.checkpoint_pair import (
    DecoderCheckpoints,
    EncoderCheckpoints,
    opened_checkpoints,
)
from castline.compiler.check.comparison import Pair, opened_pair
from castline.compiler.check.described_folder import DescribedFolder
from castline.compiler.check.evaluation_text import (
    Described,
    HeldOutPassages,
    HeldOutText,
    first_tokens,
)
from castline.compiler.check.graph_pair import DecoderGraphs, EncoderGraphs, opened_graphs
from castline.compiler.check.hidden_layers import (
    LayerFigures,
    compare_layers,
    graph_layers,
    torch_layers,
)
from castline.compiler.check.language import LanguageModel
from castline.compiler.check.memory import available_memory, require_memory, require_memory_for
from castline.compiler.check.model_kind import NamedModel
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.original_encoder import OriginalEncoder
from castline.compiler.check.original_runner import Run
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.unpacked import loading_bytes
from castline.exporters.checkpoint import Checkpoint, open_checkpoint
from castline.progress import Progress, SilentProgress

AnyPair: TypeAlias = Pair | DecoderCheckpoints | EncoderCheckpoints | DecoderGraphs | EncoderGraphs

_FLOAT32 = 4  # bytes a weight
_ELSEWHERE = "Run castline check where there is more memory."


@dataclass(frozen=True)
class Sides:
    """Two models to compare, the text to do it on, and the threads to run them with."""

    original: NamedModel
    result: NamedModel
    described: Described
    """The original as it reads text: its checkpoint, or the folder of its graph."""
    text: HeldOutText | HeldOutPassages
    threads: int | None = None

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The original's checkpoint; None where it is a graph."""
        return self.described if isinstance(self.described, Checkpoint) else None


def described(original: NamedModel) -> Described:
    """Open what says how the original reads text. Raises CheckpointError without it."""
    if original.graph is None:
        return open_checkpoint(original.source)
    return DescribedFolder(original.folder)


def ordered(
    original: NamedModel, result: NamedModel
) -> tuple[NamedModel, NamedModel, tuple[str, ...]]:
    """Return the original, the result, and a note where they change places.

    A checkpoint beside a graph is the original, whichever of them was named first.
    """
    if original.graph is None or result.graph is not None:
        return original, result, ()
    note = f"{result.source} is a checkpoint, and so the original here"
    return result, original, (note,)


def require_memory_of(sides: Sides, available: int | None = None) -> None:
    """Raise TargetError if both models will not fit into `available` bytes (None: asks)."""
    available = available_memory() if available is None else available
    checkpoint = sides.checkpoint
    if checkpoint is None:
        both = _graph_bytes(sides.original) + _graph_bytes(sides.result)
        require_memory_for(sides.original.source, both, available, _ELSEWHERE)
        return
    # A checkpoint runs as the original does, in float32.
    weights = sum(spec.size for spec in checkpoint.tensors.values()) * _FLOAT32
    size = weights if sides.result.graph is None else _graph_bytes(sides.result)
    require_memory(checkpoint, size, available, _ELSEWHERE)


@contextmanager
def opened_sides(
    sides: Sides, engine: LanguageModel | None = None, progress: Progress | None = None
) -> Iterator[AnyPair]:
    """Load both models, to be measured; `engine` takes the place of the result's graph."""
    progress = progress or SilentProgress()
    checkpoint, text, threads = sides.checkpoint, sides.text, sides.threads
    with ExitStack() as stack:
        if engine is not None:
            assert isinstance(text, HeldOutText), "engines that run here are of decoders"
            yield DecoderCheckpoints(_language_model(sides), engine, text)
        elif checkpoint is None:
            opened = opened_graphs(
                sides.original, sides.result, text, threads=threads, progress=progress
            )
            yield stack.enter_context(opened)
        elif sides.result.graph is None:
            written = opened_checkpoints(
                checkpoint, sides.result.source, text, threads=threads, progress=progress
            )
            yield stack.enter_context(written)
        else:
            pair = opened_pair(
                checkpoint, sides.result.graph, text, threads=threads, progress=progress
            )
            yield stack.enter_context(pair)


def layer_figures(sides: Sides, pair: AnyPair) -> LayerFigures:
    """Return how far the hidden states of both models are apart after each layer.

    An engine has no such outputs: the graph that it was built of stands in for it.
    """
    with ExitStack() as stack:
        written: object = None
        if isinstance(pair, DecoderCheckpoints | EncoderCheckpoints):
            written = pair.written
        original = _layers(stack, sides.original, pair.original, sides.threads)
        result = _layers(stack, sides.result, written, sides.threads)
        return compare_layers(original, result, first_tokens(sides.text))


def _layers(stack: ExitStack, named: NamedModel, loaded: object, threads: int | None) -> Run:
    if named.graph is not None:
        return stack.enter_context(graph_layers(named.graph, threads))
    assert isinstance(loaded, OriginalModel | OriginalEncoder), "a checkpoint runs in torch"
    return torch_layers(loaded)


def _language_model(sides: Sides) -> LanguageModel:
    if sides.checkpoint is not None:
        return OriginalModel.load(sides.checkpoint)
    assert sides.original.graph is not None, "what is no checkpoint is a graph"
    return DecoderSession.open(sides.original.graph, threads=sides.threads)


def _graph_bytes(named: NamedModel) -> int:
    assert named.graph is not None, "the caller has seen that it is a graph"
    return loading_bytes(ir.load(named.graph))
