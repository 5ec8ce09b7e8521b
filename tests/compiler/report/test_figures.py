from __future__ import annotations

import pytest

from castline.compiler.check import gate, language, tensors
from castline.compiler.report import figures

LOGITS = tensors.TensorFigure("logits", 0.01, 0.999)


@pytest.mark.parametrize(
    ("protocol", "measured"),
    [
        (figures.LanguageFigures, language.LanguageFigures(10.0, 11.0, 0.1, 0.9, 512)),
        (figures.TensorFigure, LOGITS),
        (figures.TensorFigures, tensors.TensorFigures((LOGITS,))),
        (figures.Verdict, gate.Verdict("kl divergence", 0.1, 0.5, True)),
    ],
)
def test_what_the_check_measures_fits(protocol: type, measured: object) -> None:
    wanted = [name for name, member in vars(protocol).items() if isinstance(member, property)]
    assert wanted
    assert [name for name in wanted if not hasattr(measured, name)] == []
