from __future__ import annotations

import json
from pathlib import Path

from castline.compiler.check.gate import Verdict
from castline.compiler.check.language import LanguageFigures
from castline.compiler.check.tensors import TensorFigure, TensorFigures
from castline.compiler.report.outcome import CheckOutcome


def checked(*verdicts: Verdict) -> CheckOutcome:
    return CheckOutcome(
        output=Path("out"),
        against="model.gguf",
        language=LanguageFigures(10.0, 11.0, 0.1, 0.9, 512),
        tensors=TensorFigures((TensorFigure("logits", 0.01, 0.999),)),
        verdicts=verdicts,
        seconds=1.0,
    )


def test_what_the_check_measured_goes_into_json_as_it_is() -> None:
    outcome = checked(Verdict("kl divergence", 0.1, 0.5, True))
    document = json.loads(json.dumps(outcome.to_json()))
    assert document["language"]["perplexity_original"] == 10.0
    assert document["tensors"]["outputs"][0]["cosine"] == 0.999
    assert document["verdicts"] == [
        {"name": "kl divergence", "value": 0.1, "limit": 0.5, "at_most": True, "passed": True}
    ]


def test_passes_when_every_verdict_does() -> None:
    passed, failed = Verdict("a", 0.1, 0.5, True), Verdict("b", None, 0.5, True)
    assert checked(passed).passed
    assert not checked(passed, failed).passed
