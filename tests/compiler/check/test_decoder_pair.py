"""A written decoder is measured beside its checkpoint on the same text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from castline.compiler.check.comparison import opened_pair
from castline.compiler.check.evaluation_text import HeldOutText, held_out_windows
from castline.compiler.package.genai_config import write_genai_config
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.write import write_model


@pytest.fixture
def text(tiny: Callable[[str], Any], evaluation_text: str) -> HeldOutText:
    """Eight short windows; the whole ones would take longer."""
    whole = held_out_windows(tiny("llama").checkpoint, evaluation_text)
    return HeldOutText(whole.windows[:, :64], whole.sha256, whole.source)


def written(model: ir.Model, config: Any, folder: Path, *, shares_cache: bool = False) -> Path:
    folder.mkdir()
    write_genai_config(folder, config, shares_cache=shares_cache, stop_tokens=[2])
    write_model(model, folder)
    return folder


def test_the_float_graph_is_its_original(
    tiny: Callable[[str], Any], text: HeldOutText, tmp_path: Path
) -> None:
    tested = tiny("llama")
    folder = written(tested.model(), tested.checkpoint.config, tmp_path / "out")
    with opened_pair(tested.checkpoint, folder, text, threads=1) as pair:
        found = pair.measure(Thresholds(kl_divergence=1e-6))
    assert found.language is not None
    assert found.encoding is None
    assert found.language.tokens == 8 * 63
    assert found.language.kl_divergence <= 1e-9
    assert found.language.top1_agreement == 1
    assert found.language.perplexity == pytest.approx(found.language.perplexity_original, rel=1e-5)
    assert found.tensors.worst_relative_error.relative_error <= 1e-4
    assert [verdict.passed for verdict in found.verdicts] == [True]


def test_a_quantized_lowered_graph_is_apart_and_judged(
    tiny: Callable[[str], Any], text: HeldOutText, tmp_path: Path
) -> None:
    tested = tiny("llama")
    model = tested.model()
    QuantizeWeights(WeightScheme(4, 128, True))(model)
    OnnxRuntime().lower(model, 512)
    config = tested.checkpoint.config
    folder = written(model, config, tmp_path / "out", shares_cache=True)
    limits = Thresholds(kl_divergence=1e-6, top1_agreement=0.01)
    with opened_pair(tested.checkpoint, folder, text, threads=1) as pair:
        found = pair.measure(limits)
    assert found.language is not None
    assert found.language.kl_divergence > 1e-4
    assert 0.3 <= found.language.top1_agreement < 1
    assert [verdict.passed for verdict in found.verdicts] == [False, True]
    assert 0.8 <= found.tensors.of("logits").cosine < 1


def test_both_speeds_are_measured_with_the_same_threads(
    tiny: Callable[[str], Any], text: HeldOutText, tmp_path: Path
) -> None:
    tested = tiny("llama")
    folder = written(tested.model(), tested.checkpoint.config, tmp_path / "out")
    with opened_pair(tested.checkpoint, folder, text, threads=1) as pair:
        found = pair.timed()
    for speed in (found.result, found.original):
        assert speed.threads == 1
        assert speed.prefill > 0
        assert speed.decode is not None
        assert speed.decode > 0
