"""Every form of the experts that is measured computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from castline.compiler.targets.write import write_model


@pytest.mark.parametrize("count", [1, 9])
def test_every_form_gives_the_dense_answer(tmp_path: Path, count: int) -> None:
    from expert_forms import FORMS, Sizes, tokens

    sizes = Sizes(hidden=64, inner=32, experts=4, chosen=2)
    feed = tokens(sizes, count)
    answers: dict[str, np.ndarray] = {}
    for form in FORMS:
        folder = tmp_path / f"{form.weights}-{form.name}"
        folder.mkdir()
        session = onnxruntime.InferenceSession(
            write_model(form.build(sizes), folder), providers=["CPUExecutionProvider"]
        )
        answers[folder.name] = session.run(None, feed)[0]
    exact = answers["fp32-dense"]
    # Codes differ from the weights; int8 activations add what separates the low-bit forms.
    bounds = {"fp32": (exact, 1e-5), "int8": (exact, 5e-2), "int4": (answers["int4-dense"], 5e-2)}
    for name, answer in answers.items():
        wanted, bound = bounds[name.partition("-")[0]]
        assert np.abs(answer - wanted).max() <= bound * np.abs(wanted).max(), name
