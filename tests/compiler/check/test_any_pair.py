"""Any two models are opened, in the order that makes one of them the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler.check.any_pair import (
    layer_figures,
    opened_sides,
    ordered,
    require_memory_of,
)
from castline.compiler.check.checkpoint_pair import DecoderCheckpoints
from castline.compiler.check.graph_pair import DecoderGraphs
from castline.compiler.check.model_kind import named_model
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import TargetError


def test_a_checkpoint_beside_a_graph_is_the_original(source: str, exported: Path) -> None:
    checkpoint, graph = named_model(source), named_model(exported)
    assert ordered(checkpoint, graph) == (checkpoint, graph, ())
    assert ordered(graph, graph) == (graph, graph, ())
    original, result, notes = ordered(graph, checkpoint)
    assert (original, result) == (checkpoint, graph)
    assert notes == (f"{source} is a checkpoint, and so the original here",)


def test_every_two_models_give_the_same_figures(
    sides: Any, source: str, exported: Path, quantized: Path
) -> None:
    found = []
    for original in (source, exported, exported / "model.onnx"):
        with opened_sides(sides(original, quantized)) as pair:
            found.append(pair.measure(Thresholds()).language)
    assert found[1] == found[2]
    assert found[0].perplexity == found[1].perplexity
    assert found[0].kl_divergence == pytest.approx(found[1].kl_divergence, rel=1e-4)


def test_layers_of_every_two_models_are_compared(
    sides: Any, source: str, exported: Path, quantized: Path
) -> None:
    errors = []
    for original in (source, exported):
        both = sides(original, quantized)
        with opened_sides(both) as pair:
            errors.append([one.relative_error for one in layer_figures(both, pair).layers])
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-3)
    both = sides(source, source)
    with opened_sides(both) as pair:
        assert isinstance(pair, DecoderCheckpoints)
        assert {one.relative_error for one in layer_figures(both, pair).layers} == {0.0}


def test_an_engine_takes_the_place_of_the_graph(sides: Any, exported: Path) -> None:
    class Flat:
        def logits(self, input_ids: Any, _mask: Any = None) -> Any:
            return np.zeros((*input_ids.shape, 160), np.float32)

    with opened_sides(sides(exported, exported), Flat()) as pair:
        assert not isinstance(pair, DecoderGraphs)
        measured = pair.measure(Thresholds())
    assert measured.language is not None
    assert measured.language.perplexity == pytest.approx(160)


def test_too_little_memory_for_two_graphs_is_said(sides: Any, exported: Path) -> None:
    with pytest.raises(TargetError, match=r"memory, and 0\.0 GB are available"):
        require_memory_of(sides(exported, exported), 1000)
