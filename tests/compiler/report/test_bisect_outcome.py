"""What a bisection found becomes JSON, its verdicts with whether they passed."""

from __future__ import annotations

import json
from pathlib import Path

from castline.compiler.check.gate import judge
from castline.compiler.check.language import LanguageFigures
from castline.compiler.recipes.thresholds import Thresholds
from castline.compiler.report.bisect_outcome import BisectOutcome, TriedPiece

LIMIT = Thresholds(kl_divergence=0.1)


def test_json_has_the_kept_pieces_and_both_verdicts() -> None:
    outcome = BisectOutcome(
        output=Path("out"),
        against="model",
        pieces=(
            TriedPiece(name="a", kl_divergence=0.4, kept=True, without={"kl divergence": 0.5}),
            TriedPiece(name="b", kl_divergence=float("nan"), kept=False, without={}),
        ),
        language_quantized=LanguageFigures(10.0, 12.0, 0.5, 0.8, 100),
        verdicts_quantized=judge(LIMIT, {"kl_divergence": 0.5}),
        language=LanguageFigures(10.0, 10.1, 0.05, 0.9, 100),
        verdicts=judge(LIMIT, {"kl_divergence": 0.05}),
        settings=("keep=[a.*]",),
        mixes=5,
        seconds=1.0,
    )
    document = json.loads(json.dumps(outcome.to_json()))
    assert [piece.name for piece in outcome.kept] == ["a"]
    assert document["pieces"][1]["kl_divergence"] == "nan"
    assert document["settings"] == ["keep=[a.*]"]
    assert [document[name][0]["passed"] for name in ("verdicts_quantized", "verdicts")] == [
        False,
        True,
    ]
