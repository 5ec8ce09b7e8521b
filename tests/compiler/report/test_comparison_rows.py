from __future__ import annotations

import math
from pathlib import Path

import pytest

from castline.compiler.check.encoding import EncodingFigures
from castline.compiler.check.gate import Verdict
from castline.compiler.check.language import LanguageFigures
from castline.compiler.check.measured import Speed
from castline.compiler.report.comparison_rows import FigureRow, figure_rows, verdict_row
from castline.compiler.report.outcome import CompileOutcome


def compiled(
    language: LanguageFigures | None = None,
    encoding: EncodingFigures | None = None,
    original_speed: Speed | None = None,
    speed: Speed | None = None,
) -> CompileOutcome:
    return CompileOutcome(
        output=Path("out"),
        source="m",
        source_path=None,
        recipe="r",
        target="onnx",
        language=language,
        encoding=encoding,
        tensors=None,
        verdicts=(),
        original_bytes=4_000_000,
        bytes=1_000_000,
        original_speed=original_speed,
        speed=speed,
        bits_per_weight=8.0,
        seconds=1.0,
    )


def test_what_was_not_measured_has_no_row() -> None:
    assert figure_rows(compiled()) == (
        FigureRow("Size", "4 MB", "1 MB", "4× smaller", at_a_glance=True),
        FigureRow("Bits per weight", "32", "8", ""),
    )


def test_a_decoder() -> None:
    rows = figure_rows(
        compiled(
            LanguageFigures(40.0, 42.0, 0.0123, 0.932, 512),
            original_speed=Speed(100.0, 10.0, 2),
            speed=Speed(150.0, 30.0, 2),
        )
    )
    assert rows[:3] == (
        FigureRow("Perplexity", "40", "42", "+5.0 %", at_a_glance=True),
        FigureRow("KL divergence, nats a token", "0", "0.0123", ""),
        FigureRow("Same likeliest token", "", "93.2 %", "", at_a_glance=True),
    )
    assert rows[-2:] == (
        FigureRow("Reading, tokens/s", "100", "150", "1.5× as fast"),
        FigureRow("Writing, tokens/s", "10", "30", "3× as fast", at_a_glance=True),
    )


def test_an_encoder_writes_nothing() -> None:
    figures = EncodingFigures(
        hidden_cosine=0.99,
        worst_hidden_cosine=0.9,
        relative_error=0.1,
        embedding_cosine=0.999,
        worst_embedding_cosine=0.98,
        similarity_correlation=0.95,
        tokens=64,
        passages=8,
    )
    rows = figure_rows(
        compiled(
            encoding=figures, original_speed=Speed(100.0, None, 1), speed=Speed(200.0, None, 1)
        )
    )
    assert rows[0] == FigureRow("Cosine of text vectors", "1", "0.999", "", at_a_glance=True)
    assert rows[5] == FigureRow("Relative error of the vectors", "0", "0.1", "")
    assert rows[-1] == FigureRow("Reading, tokens/s", "100", "200", "2× as fast", at_a_glance=True)


def test_a_model_that_broke_has_its_figures_as_they_are() -> None:
    rows = figure_rows(compiled(LanguageFigures(40.0, math.inf, math.nan, 0.0, 512)))
    assert (rows[0].result, rows[0].change) == ("inf", "+inf %")
    assert rows[1].result == "nan"


@pytest.mark.parametrize(
    ("verdict", "used"),
    [
        (Verdict("perplexity ratio", 1.02, 1.1, True), 0.2),
        (Verdict("kl divergence", 0.05, 0.2, True), 0.25),
        (Verdict("top1 agreement", 0.95, 0.9, False), 0.5),
        (Verdict("perplexity ratio", 0.99, 1.1, True), 0.0),
        (Verdict("kl divergence", 0.5, 0.2, True), 1.0),
        (Verdict("kl divergence", math.inf, 0.2, True), 1.0),
        (Verdict("kl divergence", math.nan, 0.2, True), None),
        (Verdict("kl divergence", None, 0.2, True), None),
        (Verdict("kl divergence", 0.0, 0.0, True), None),
        (Verdict("perplexity ratio", 0.8, 0.9, True), None),
    ],
)
def test_the_share_of_the_allowance_that_is_used(verdict: Verdict, used: float | None) -> None:
    assert verdict_row(verdict).used == (None if used is None else pytest.approx(used))


def test_a_verdict_in_words() -> None:
    row = verdict_row(Verdict("kl divergence", 0.01234, 0.05, True))
    assert (row.name, row.value, row.limit) == ("KL divergence", "0.01234", "≤ 0.05")
    assert row.passed
    row = verdict_row(Verdict("top1 agreement", None, 0.9, False))
    assert (row.name, row.value, row.limit) == ("Top-1 agreement", "not measured", "≥ 0.9")
    assert not row.passed
