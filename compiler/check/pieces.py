"""Cut a model into pieces at the hidden states between its layers, each of them a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from castline.compiler.check.graph_run import GraphRun
from castline.compiler.check.split_norms import split_norms
from castline.compiler.graph.layer_boundaries import (
    embedding_boundary,
    layer_boundaries,
    module_of,
)
from castline.compiler.targets.runtime import inference_session
from castline.compiler.targets.write import write_model
from castline.errors import OutputError
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS, LOGITS
from castline.progress import Progress

EMBEDDING, HEAD = "embedding", "head"


@dataclass(frozen=True)
class Cuts:
    """The values at which a decoder is cut: what the embedding gives, and then every layer."""

    values: tuple[str, ...]
    layers: tuple[str, ...]
    """The paths of the layers' modules, such as "model.layers.0"."""

    @property
    def titles(self) -> tuple[str, ...]:
        """What the pieces are called: one more than there are cuts."""
        return (EMBEDDING, *self.layers, HEAD)


def cuts_of(model: ir.Model, layers: int, source: str) -> Cuts:
    """Return where the float graph of a decoder with so many layers is cut.

    Raises OutputError where one of the hidden states is not found.
    """
    boundaries = layer_boundaries(model.graph)
    first = boundaries.get(0)
    width = None if first is None or first.shape is None else first.shape[-1]
    embedded = embedding_boundary(model.graph, width) if isinstance(width, int) else None
    if embedded is None or list(boundaries) != list(range(layers)):
        lacking = "" if embedded is not None else ", and not before the first"
        raise OutputError(
            f"{source}: its graph cannot be cut between layers: hidden states are found after "
            f"{len(boundaries)} of {layers} layers{lacking}."
        )
    names = [str(value.name) for value in boundaries.values()]
    return Cuts((str(embedded.name), *names), tuple(map(module_of, names)))


def pieces(model: ir.Model, cuts: Cuts, source: str) -> Iterator[ir.Model]:
    """Yield the pieces of a decoder in order: the first reads tokens, the last gives logits.

    Norms that are fused with a sum to cut at are split in `model`. Raises OutputError for a graph
    that lacks one of the values.
    """
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    if missing := [name for name in cuts.values if name not in values]:
        raise OutputError(
            f"{source}: its graph cannot be cut between layers, since it has no {missing[0]}: the "
            "hidden state is not what it is in the original."
        )
    split_norms(model.graph, [values[name] for name in cuts.values], source)
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    ends = [values[name] for name in (*cuts.values, LOGITS)]
    before: ir.Value | None = None
    for end in ends:
        yield _piece(model, before, end)
        before = end


def loaded_pieces(
    parts: Iterator[ir.Model], folder: Path, threads: int | None, progress: Progress
) -> tuple[GraphRun, ...]:
    """Write every piece into a folder of its own below `folder`, and load it.

    The files may go afterwards: Linux keeps the pages that a session maps.
    """
    runs = []
    for index, part in enumerate(parts):
        place = folder / str(index)
        place.mkdir(parents=True)
        with progress.stage(f"Cutting out piece {index}"):
            runs.append(GraphRun(inference_session(write_model(part, place), threads, None)))
    return tuple(runs)


def _piece(model: ir.Model, begin: ir.Value | None, end: ir.Value) -> ir.Model:
    given = [] if begin is None else [begin]
    graph = ir.convenience.extract(model.graph, [*given, *_inputs(end, begin)], [end])
    return ir.Model(
        graph,
        ir_version=model.ir_version,
        functions=[function.clone() for function in model.functions.values()],
        metadata_props=dict(model.metadata_props),  # the runtime reads its settings there
    )


def _inputs(end: ir.Value, begin: ir.Value | None) -> Sequence[ir.Value]:
    """Return the tokens, and the inputs of the graph that `end` depends on beside `begin`."""
    assert isinstance(end.graph, ir.Graph), "it is computed by a node of one"
    seen: dict[ir.Value, None] = {}
    pending = [end]
    while pending:
        value = pending.pop()
        if value is begin or value in seen:
            continue
        seen[value] = None
        producer = value.producer()
        if producer is not None:
            pending.extend(one for one in producer.inputs if one is not None)
    tokens = [value for value in end.graph.inputs if value.name in (INPUT_IDS, ATTENTION_MASK)]
    return [*tokens, *(v for v in seen if v.is_graph_input() and v not in tokens)]
