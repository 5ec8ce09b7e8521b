"""Compare two models layer by layer: the hidden state that each layer hands on."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from castline.compiler.check.graph_run import GraphRun
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.original_encoder import OriginalEncoder
from castline.compiler.check.original_runner import Feed, OriginalRunner, Run
from castline.compiler.check.tensors import TensorFigure, compare_runners, figures_of_tokens
from castline.compiler.graph.layer_boundaries import layer_boundaries
from castline.compiler.targets.runtime import inference_session
from castline.compiler.targets.unpacked import scratch_folder
from castline.compiler.targets.write import disk_errors
from castline.errors import OutputError
from castline.exporters.layer_stack import layer_stack
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS

Array: TypeAlias = NDArray[np.generic]

_ADVICE = "Make room, or name a folder elsewhere in TMPDIR."

COSINE = 0.98
"""A layer whose hidden state has a smaller cosine with the original's diverges."""
JUMP, AUDIBLE = 5.0, 0.05
"""So does one whose relative error is JUMP times that of the layer before, and above AUDIBLE."""
CRITERION = (
    f"a value that is not finite, a cosine below {COSINE:g}, or a relative error above "
    f"{AUDIBLE:g} that is more than {JUMP:g} times the one before"
)


@dataclass(frozen=True)
class LayerFigures:
    """How far the hidden state after each layer is from the original's, in the order of layers."""

    layers: tuple[TensorFigure, ...]
    criterion: str = CRITERION

    @property
    def first_to_diverge(self) -> TensorFigure | None:
        """The first layer that CRITERION is true of; None if it is of none."""
        before = math.inf  # nothing comes before the first layer, so it cannot jump
        for figure in self.layers:
            if _diverges(figure, before):
                return figure
            before = figure.relative_error
        return None


def compare_layers(original: Run, result: Run, feed: Feed) -> LayerFigures:
    """Return the figures of all layers that both runs give, by Polygraphy's Comparator.

    Raises OutputError where they have no layer in common.
    """
    runners = (OriginalRunner(original, feed), OriginalRunner(result, feed, name="result"))
    compare = figures_of_tokens(feed[ATTENTION_MASK])

    def common(one: Feed, other: Feed) -> OrderedDict[str, TensorFigure]:
        both = [name for name in one if name in other]
        return compare({name: one[name] for name in both}, {name: other[name] for name in both})

    figures, *_ = compare_runners(runners, feed, common)
    if not figures:
        raise OutputError(
            "No layer of one model is found in the other: nodes must be named by their modules, "
            "such as /model/layers.0/..., as castline export and castline compile name them."
        )
    return LayerFigures(tuple(figures))


def torch_layers(original: OriginalModel | OriginalEncoder) -> Run:
    """Return a run of an original that gives the hidden state [B, S, hidden] after each layer."""
    _, layers = layer_stack(original.model, original.model.config)
    read = original.logits if isinstance(original, OriginalModel) else original.hidden

    def run(feed: Feed) -> Mapping[str, Array]:
        found: dict[str, Array] = {}
        hooks = [
            layer.register_forward_hook(_keeping(found, layer_title(index)))
            for index, layer in enumerate(layers)
        ]
        try:
            read(feed[INPUT_IDS].astype(np.int64), feed[ATTENTION_MASK].astype(np.int64))
        finally:
            for hook in hooks:
                hook.remove()
        return found

    return run


@contextmanager
def graph_layers(model: Path, threads: int | None = None) -> Iterator[Run]:
    """Load a graph so that it gives the hidden state after each layer, by the layer's title.

    Raises OutputError where no layer is found in it.
    """
    with marked_copy(model) as marked:
        names = {layer_title(i): str(v.name) for i, v in _boundaries(ir.load(model), model).items()}
        yield GraphRun(inference_session(marked, threads, None), names)


@contextmanager
def marked_copy(model: Path) -> Iterator[Path]:
    """Give a copy of a graph with the hidden state after each layer as an output, too.

    It goes when the block is left; a session that was made of it may stay. Its weights are linked
    where the file system can do that, and copied elsewhere. Raises OutputError where no layer is
    found in it.
    """
    graph = ir.load(model)
    values = _boundaries(graph, model).values()
    graph.graph.outputs.extend(value for value in values if not value.is_graph_output())
    with tempfile.TemporaryDirectory(prefix="castline-layers-", dir=scratch_folder()) as scratch:
        for name in _external_files(graph):
            _link(model.parent / name, Path(scratch) / name)
        ir.save(graph, Path(scratch) / model.name)
        yield Path(scratch) / model.name


def _boundaries(graph: ir.Model, model: Path) -> dict[int, ir.Value]:
    found = layer_boundaries(graph.graph)
    if not found:
        raise OutputError(
            f"{model}: no layer is found in it. Its nodes must be named by their modules, such as "
            "/model/layers.0/..., as castline export and castline compile name them."
        )
    return found


def layer_title(index: int) -> str:
    """Return what a layer is called in tables."""
    return f"layer {index}"


def _external_files(model: ir.Model) -> tuple[str, ...]:
    """Return the files that the weights of a saved model are in, beside it."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return tuple(
        sorted({str(one.location) for one in tensors if isinstance(one, ir.ExternalTensor)})
    )


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it: ONNX Runtime follows no symbolic link elsewhere."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        with disk_errors(target.parent, source.stat().st_size, _ADVICE):
            shutil.copyfile(source, target)


def _keeping(found: dict[str, Array], title: str) -> Callable[[object, object, object], None]:
    """Return a hook that keeps the hidden state that a layer gives, alone or first of several."""

    def hook(_layer: object, _given: object, output: object) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden, torch.Tensor), "layers of transformers hand on hidden states"
        found[title] = hidden.float().numpy()

    return hook


def _diverges(figure: TensorFigure, before: float) -> bool:
    if not (math.isfinite(figure.relative_error) and math.isfinite(figure.cosine)):
        return True
    jumps = figure.relative_error > max(AUDIBLE, JUMP * before)
    return jumps or figure.cosine < COSINE
