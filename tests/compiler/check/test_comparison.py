"""A written model is measured beside its checkpoint on the same text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

from castline.compiler.check.comparison import (
    HeldOutText,
    held_out_text,
    measure,
    opened_pair,
    timed,
)
from castline.compiler.package.genai_config import write_genai_config
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.write import write_model
from castline.errors import CheckpointError, RecipeError, TargetError
from castline.exporters.readers.tokenizer import FolderTokenizer


@pytest.fixture
def text(tiny: Callable[[str], Any], evaluation_text: str) -> HeldOutText:
    """Eight short windows; the whole ones would take longer."""
    whole = held_out_text(tiny("llama").checkpoint, evaluation_text)
    return HeldOutText(whole.windows[:, :64], whole.sha256, whole.source)


def written(model: ir.Model, config: Any, folder: Path, *, shares_cache: bool = False) -> Path:
    folder.mkdir()
    write_genai_config(folder, config, shares_cache=shares_cache, stop_tokens=[2])
    write_model(model, folder)
    return folder


def test_text_is_cut_into_windows_of_the_context(
    tiny: Callable[[str], Any], evaluation_text: str
) -> None:
    found = held_out_text(tiny("llama").checkpoint, evaluation_text)
    assert found.windows.shape == (8, 512)
    assert found.source == evaluation_text
    assert found.sha256 == hashlib.sha256(Path(evaluation_text).read_bytes()).hexdigest()


def test_a_short_text_is_refused(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("w1 " * 100)
    with pytest.raises(RecipeError, match="too short: 1 windows of 512 tokens"):
        held_out_text(tiny("llama").checkpoint, str(file))


def test_the_float_graph_is_its_original(
    tiny: Callable[[str], Any], text: HeldOutText, tmp_path: Path
) -> None:
    tested = tiny("llama")
    folder = written(tested.model(), tested.checkpoint.config, tmp_path / "out")
    with opened_pair(tested.checkpoint, folder, threads=1) as pair:
        found = measure(pair, text, Thresholds(kl_divergence=1e-6))
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
    with opened_pair(tested.checkpoint, folder, threads=1) as pair:
        found = measure(pair, text, limits)
    assert found.language.kl_divergence > 1e-4
    assert 0.3 <= found.language.top1_agreement < 1
    assert [verdict.passed for verdict in found.verdicts] == [False, True]
    assert 0.8 <= found.tensors.of("logits").cosine < 1


def test_both_speeds_are_measured_with_the_same_threads(
    tiny: Callable[[str], Any], text: HeldOutText, tmp_path: Path
) -> None:
    tested = tiny("llama")
    folder = written(tested.model(), tested.checkpoint.config, tmp_path / "out")
    with opened_pair(tested.checkpoint, folder, threads=1) as pair:
        found = timed(pair, text)
    for speed in (found.result, found.original):
        assert speed.threads == 1
        assert speed.prefill > 0
        assert speed.decode > 0


def test_torch_gets_its_threads_back_even_after_a_failure(
    tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    tested = tiny("llama")
    folder = written(tested.model(), tested.checkpoint.config, tmp_path / "out")
    with opened_pair(tested.checkpoint, folder, threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(TargetError), opened_pair(tested.checkpoint, tmp_path, threads=before + 1):
        pytest.fail("there is no model in that folder")
    assert torch.get_num_threads() == before


def test_a_checkpoint_without_a_tokenizer_cannot_be_compared(
    tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    without = FolderTokenizer(tmp_path, trust_remote_code=False)
    checkpoint = replace(tiny("llama").checkpoint, tokenizer_source=without)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        held_out_text(checkpoint, None)


def test_a_text_of_a_few_windows_is_used_whole(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("w1 " * 1200)
    held_out = held_out_text(tiny("llama").checkpoint, str(file))
    assert held_out.windows.shape == (2, 512)
