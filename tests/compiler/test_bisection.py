"""The layers that are found are enough when the model is compiled again, and none is too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from castline.compiler.bisection import bisect_output
from castline.compiler.pipeline import compile_model, export_model
from castline.compiler.recheck import check_output
from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.bisect_outcome import BisectOutcome
from castline.errors import OutputError


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("short") / "text.txt"
    file.write_text(" ".join(f"w{i * i % 157}" for i in range(520)))
    return str(file)


def limit_between(output: Path, text: str) -> str:
    """Return a threshold that one layer of the two in float keeps, but none does not."""
    outcome = check_output(output, evaluation_text=text, threads=1)
    assert outcome.language is not None
    return f"gate.kl_divergence={0.8 * outcome.language.kl_divergence}"


@pytest.fixture(scope="module")
def found(published: tuple[Any, Path], text: str) -> BisectOutcome:
    limits = ("gate.perplexity_ratio=10", limit_between(published[1], text))
    return bisect_output(published[1], evaluation_text=text, overrides=limits, threads=1)


def test_one_layer_is_enough_and_without_it_the_gate_fails(found: BisectOutcome) -> None:
    (kept,) = found.kept
    assert all(verdict.passed for verdict in found.verdicts)
    assert not all(verdict.passed for verdict in found.verdicts_quantized)
    assert kept.without == {"kl divergence": found.language_quantized.kl_divergence}
    assert found.settings == (f"keep=[{kept.name}.*]",)
    assert [piece.name for piece in found.pieces[:1]] == [kept.name]


def test_compiled_again_with_what_is_printed_it_is_as_predicted(
    found: BisectOutcome,
    source: str,
    text: str,
    tmp_path: Path,
    w4: Any,
) -> None:
    recipe = load_recipe("w4a16-rtn", (*w4, *found.settings))
    compile_model(
        source, tmp_path / "out", recipe=recipe, target="onnxruntime", gate=False, threads=1
    )
    again = check_output(tmp_path / "out", evaluation_text=text, threads=1)
    assert again.language is not None
    expected = found.language.kl_divergence
    assert again.language.kl_divergence == pytest.approx(expected, rel=0.05)


def test_a_gate_that_passes_asks_for_nothing(published: tuple[Any, Path], text: str) -> None:
    limits = ("gate.kl_divergence=9", "gate.perplexity_ratio=10", "gate.top1_agreement=0")
    outcome = bisect_output(published[1], evaluation_text=text, overrides=limits, threads=1)
    assert (outcome.settings, outcome.pieces, outcome.mixes) == ((), (), 1)


def test_what_is_quantized_beside_the_layers_may_be_the_culprit(
    source: str, text: str, tmp_path: Path
) -> None:
    two_bits = ("head.bits=2", "head.group_size=64", "head.symmetric=true")
    recipe = load_recipe("w8a16-rtn", (*two_bits, "keep=[model.layers.1.*]"))
    compile_model(source, tmp_path / "out", recipe=recipe, target="onnx", gate=False)
    limits = ("gate.kl_divergence=0.01", "gate.perplexity_ratio=10", "gate.top1_agreement=0.5")
    outcome = bisect_output(tmp_path / "out", evaluation_text=text, overrides=limits, threads=1)
    assert outcome.settings == ("head=keep",)
    assert outcome.pieces[0].name == "head"


def test_an_export_an_encoder_and_a_checkpoint_are_refused(
    source: str, encoder: Any, sentences: str, text: str, tmp_path: Path
) -> None:
    export_model(source, tmp_path / "float")
    with pytest.raises(OutputError, match="exported and not quantized"):
        bisect_output(tmp_path / "float", evaluation_text=text)
    recipe = load_recipe("w8a16-rtn")
    encoders = encoder.checkpoint.source
    compile_model(encoders, tmp_path / "encoder", recipe=recipe, target="onnx", gate=False)
    with pytest.raises(OutputError, match="is an encoder, and only decoders"):
        bisect_output(tmp_path / "encoder", evaluation_text=sentences)
