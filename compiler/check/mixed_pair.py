"""Cut a decoder and its original alike, and make sure that their pieces can be mixed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from castline.compiler.check.any_pair import Sides
from castline.compiler.check.evaluation_text import HeldOutText, first_tokens
from castline.compiler.check.graph_run import GraphRun
from castline.compiler.check.mixed_language import feeds_of
from castline.compiler.check.mixed_model import MixedModel
from castline.compiler.check.pieces import Cuts, cuts_of, loaded_pieces, pieces
from castline.compiler.check.tensors import tensor_figure
from castline.compiler.targets.context import note_context
from castline.compiler.targets.onnx import Onnx
from castline.compiler.targets.runtime import inference_session
from castline.compiler.targets.unpacked import scratch_folder
from castline.errors import OutputError
from castline.exporters.context import context_length
from castline.exporters.export import export
from castline.exporters.names import LOGITS
from castline.progress import Progress

_ALIKE = 0.9  # cosine of what both embeddings give; 4 bits leave above 0.99
_WHOLE = 0.99  # cosine of the logits of all pieces and of the model that they are of


def mixed_pair(sides: Sides, progress: Progress) -> tuple[Cuts, MixedModel]:
    """Cut the float graph of the original, and the result's, between their layers; load all pieces.

    The mixed model reads the `feeds_of` the text. Raises OutputError where they cannot be cut, or
    hand on hidden states that are not of one kind.
    """
    assert isinstance(sides.text, HeldOutText), "the caller refuses encoders"
    assert sides.result.graph is not None, "the caller refuses checkpoints"
    original = _float_graph(sides, progress)
    result = ir.load(sides.result.graph)
    cuts = cuts_of(original, sides.described.config.num_hidden_layers, sides.original.source)
    with tempfile.TemporaryDirectory(prefix="castline-pieces-", dir=scratch_folder()) as folder:
        runs = [
            loaded_pieces(
                pieces(model, cuts, named.source), Path(folder) / name, sides.threads, progress
            )
            for name, model, named in (
                ("original", original, sides.original),
                ("result", result, sides.result),
            )
        ]
    mixed = MixedModel(runs[0], runs[1], cuts.values, feeds_of(sides.text))
    with progress.stage("Comparing the pieces with the whole"):
        _require_one_stream(mixed, sides)
        _require_whole(mixed, sides, sides.result.graph)
    return cuts, mixed


def _float_graph(sides: Sides, progress: Progress) -> ir.Model:
    checkpoint = sides.checkpoint
    if checkpoint is None:
        assert sides.original.graph is not None, "what is no checkpoint is a graph"
        return ir.load(sides.original.graph)
    exported = export(checkpoint, progress=progress)
    context = context_length(checkpoint.config)
    Onnx().lower(exported.model, context)
    note_context(exported.model, context)
    return exported.model


def _require_one_stream(mixed: MixedModel, sides: Sides) -> None:
    """Raise OutputError where the layers of the result read another hidden state."""
    original, result = (mixed.states((whose,))[0] for whose in (True, False))
    alike = original.shape == result.shape
    if not alike or not tensor_figure("", original, result).cosine >= _ALIKE:
        raise OutputError(
            f"{sides.result.source}: its layers read a hidden state that is not the original's, "
            f"{list(original.shape)} and {list(result.shape)}"
            f"{' with other values' if alike else ''}, so they cannot take each other's place. "
            "Name the original it was compiled from."
        )


def _require_whole(mixed: MixedModel, sides: Sides, graph: Path) -> None:
    """Raise OutputError where the result's pieces together are not what its graph is."""
    assert isinstance(sides.text, HeldOutText), "the caller refuses encoders"
    run = GraphRun(inference_session(graph, sides.threads, None), {LOGITS: LOGITS})
    whole = run(first_tokens(sides.text))[LOGITS]
    joined = next(mixed.outputs((False,) * mixed.count))
    same = whole.shape == joined.shape and np.isfinite(whole).all() == np.isfinite(joined).all()
    if same and not np.isfinite(whole).all():
        return  # damaged as it is, the same damage in both
    if not same or not tensor_figure(LOGITS, whole, joined).cosine >= _WHOLE:
        raise OutputError(
            f"{sides.result.source}: cut between its layers it computes something else, so mixes "
            "of it would say nothing. See which layer diverges with --layers."
        )
