"""A decoder is cut into an embedding, its layers and a head, which together are the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.check.graph_run import GraphRun
from castline.compiler.check.pieces import Cuts, cuts_of, loaded_pieces, pieces
from castline.compiler.targets.runtime import inference_session
from castline.errors import OutputError
from castline.progress import SilentProgress

FEED = {"input_ids": np.arange(9)[None] + 3, "attention_mask": np.ones((1, 9), np.int64)}


def joined(runs: tuple[GraphRun, ...], cuts: Cuts) -> np.ndarray:
    state: dict[str, Any] = {}
    for run, name in zip(runs, (*cuts.values, "logits"), strict=True):
        (output,) = run({**FEED, **state}).values()
        state = {name: output}
    return np.asarray(state["logits"])


@pytest.mark.parametrize("which", ["exported", "quantized"])
def test_the_pieces_together_are_the_whole(
    which: str, exported: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    graph = request.getfixturevalue(which) / "model.onnx"
    cuts = cuts_of(ir.load(exported / "model.onnx"), 2, "m")
    parts = pieces(ir.load(graph), cuts, "m")
    found = joined(loaded_pieces(parts, tmp_path, 1, SilentProgress()), cuts)
    whole = GraphRun(inference_session(graph, 1, None))(FEED)["logits"]
    # Activations are rounded to bytes beside 4-bit weights, and a rounding may fall otherwise.
    np.testing.assert_allclose(found, whole, rtol=1e-3, atol=1e-4 if which == "exported" else 0.05)


def test_cuts_name_the_modules_that_recipes_name(exported: Path) -> None:
    cuts = cuts_of(ir.load(exported / "model.onnx"), 2, "m")
    assert cuts.titles == ("embedding", "model.layers.0", "model.layers.1", "head")


def test_a_layer_that_is_not_found_is_told(exported: Path) -> None:
    with pytest.raises(OutputError, match="hidden states are found after 2 of 3 layers"):
        cuts_of(ir.load(exported / "model.onnx"), 3, "m")


def test_a_graph_without_the_hidden_state_is_refused(exported: Path) -> None:
    cuts = Cuts(("/model/elsewhere",), ())
    with pytest.raises(OutputError, match="since it has no /model/elsewhere"):
        list(pieces(ir.load(exported / "model.onnx"), cuts, "m"))
