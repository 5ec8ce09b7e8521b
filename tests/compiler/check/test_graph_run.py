"""A graph is fed what it takes, and gives what is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler.check.graph_run import GraphRun
from castline.compiler.targets.runtime import inference_session
from castline.errors import TargetError

IDS = np.array([[5, 6, 7], [8, 9, 10]])
FEED = {"input_ids": IDS, "attention_mask": np.array([[0, 1, 1], [1, 1, 1]]), "unknown": IDS}


@pytest.fixture
def run(exported: Path) -> GraphRun:
    return GraphRun(inference_session(exported / "model.onnx", 1, None), {"said": "logits"})


def test_positions_and_an_empty_cache_are_filled_in(run: GraphRun) -> None:
    filled = run.filled(FEED)
    assert filled["position_ids"].tolist() == [[0, 0, 1], [0, 1, 2]]
    assert filled["past_key_values.1.value"].shape == (2, 2, 0, 32)
    assert "unknown" not in filled


def test_outputs_come_by_the_names_that_were_given(run: GraphRun) -> None:
    found = run(FEED)
    assert list(found) == ["said"]
    assert found["said"].shape == (2, 3, 160)


def test_segments_are_filled_in_and_an_encoder_has_no_past(encoder: Any) -> None:
    run = GraphRun(inference_session(encoder.graph, 1, None))
    assert run.empty_past(2) == {}
    assert run.filled(FEED)["token_type_ids"].tolist() == np.zeros_like(IDS).tolist()


def test_what_the_runtime_refuses_is_told(run: GraphRun) -> None:
    with pytest.raises(TargetError, match="could not run the model"):
        run({**FEED, "past_key_values.0.key": np.zeros((2, 1, 0, 32), np.float32)})
