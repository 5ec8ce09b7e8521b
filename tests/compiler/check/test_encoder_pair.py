"""A written encoder is measured beside its checkpoint on the same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from castline.compiler.check.comparison import opened_pair
from castline.compiler.check.evaluation_text import HeldOutPassages, held_out_passages
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.write import write_model

LIMITS = Thresholds(
    perplexity_ratio=1.0, hidden_cosine=0.99999, embedding_cosine=0.5, similarity_correlation=0.5
)


@pytest.fixture
def text(encoder: Any, sentences: str) -> HeldOutPassages:
    return held_out_passages(encoder.checkpoint, sentences)


def quantized(encoder: Any, folder: Path) -> Path:
    model: ir.Model = encoder.model()
    QuantizeWeights(WeightScheme(4, 32, True))(model)
    OnnxRuntime().lower(model, 64)
    return write_model(model, folder)


def test_the_float_graph_is_its_original(encoder: Any, text: HeldOutPassages) -> None:
    with opened_pair(encoder.checkpoint, encoder.graph, text, threads=1) as pair:
        found = pair.measure(LIMITS)
    assert found.language is None
    assert found.encoding is not None
    assert found.encoding.worst_hidden_cosine > 1 - 1e-6
    assert found.encoding.relative_error < 1e-5
    assert found.encoding.passages == 68
    (hidden,) = found.tensors.outputs
    assert hidden.name == "last_hidden_state"
    assert hidden.relative_error <= 1e-4
    assert [verdict.name for verdict in found.verdicts] == [
        "hidden cosine", "embedding cosine", "similarity correlation",
    ]  # fmt: skip
    assert all(verdict.passed for verdict in found.verdicts)


def test_a_quantized_lowered_graph_is_apart_and_judged(
    encoder: Any, text: HeldOutPassages, tmp_path: Path
) -> None:
    file = quantized(encoder, tmp_path)
    with opened_pair(encoder.checkpoint, file, text, threads=1) as pair:
        found = pair.measure(LIMITS)
    assert found.encoding is not None
    assert 0.5 < found.encoding.worst_hidden_cosine < found.encoding.hidden_cosine < 0.9999
    assert [verdict.passed for verdict in found.verdicts] == [False, True, True]


def test_both_speeds_are_of_reading_alone(encoder: Any, text: HeldOutPassages) -> None:
    with opened_pair(encoder.checkpoint, encoder.graph, text, threads=1) as pair:
        found = pair.timed()
    for speed in (found.result, found.original):
        assert (speed.threads, speed.decode) == (1, None)
        assert speed.prefill > 0


def test_segments_reach_both_models(
    encoder: Any, text: HeldOutPassages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_pair(encoder.checkpoint, encoder.graph, text, threads=1) as pair:
        run = pair.original.run  # type: ignore[attr-defined]

        def without_segments(feed: Any) -> Any:
            return run({name: array for name, array in feed.items() if "type" not in name})

        monkeypatch.setattr(pair.original, "run", without_segments)  # type: ignore[attr-defined]
        assert pair.measure(LIMITS).tensors.outputs[0].relative_error > 0.01
