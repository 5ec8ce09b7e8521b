"""The paper's effect, on a model whose outliers were planted without changing what it computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from castline.compiler.pipeline import compile_model
from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.figures import LanguageFigures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
        from small_model import store

        folder = tmp_path_factory.mktemp("planted") / "model"
        store(folder)
    return folder


def language(model: Path, output: Path, *changes: str) -> LanguageFigures:
    """Return the figures of SmoothQuant O3, with changes put in."""
    loose = ("gate.perplexity_ratio=9", "gate.kl_divergence=9", "gate.top1_agreement=0.1")
    recipe = load_recipe("w8a8-smoothquant-o3", [*loose, *changes])
    outcome = compile_model(str(model), output, recipe=recipe, target="onnx", threads=1)
    assert outcome.language is not None
    return outcome.language


def test_outliers_break_naive_int8_and_o3_stays_within_a_hundredth(
    planted: Path, tmp_path: Path
) -> None:
    naive = language(planted, tmp_path / "naive", "algorithm=round-to-nearest")
    smooth = language(planted, tmp_path / "smooth")
    assert smooth.perplexity < 1.01 * smooth.perplexity_original
    assert naive.perplexity > 1.05 * naive.perplexity_original
    assert naive.kl_divergence > 10 * smooth.kl_divergence
    assert naive.top1_agreement < 0.8
    assert smooth.top1_agreement > 0.9
