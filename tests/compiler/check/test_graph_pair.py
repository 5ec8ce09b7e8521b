"""Two graphs are compared on the same tokens; what is no such pair is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.check.evaluation_text import held_out_windows
from castline.compiler.check.graph_pair import opened_graphs
from castline.compiler.check.model_kind import named_model
from castline.compiler.pipeline import export_model
from castline.compiler.recipes.thresholds import Thresholds
from castline.errors import OutputError, TargetError


def test_a_graph_is_as_near_to_itself_as_can_be(sides: Any, exported: Path) -> None:
    both = sides(exported, exported)
    with opened_graphs(both.original, both.result, both.text, threads=1) as pair:
        found = pair.measure(Thresholds(kl_divergence=0.0))
    assert found.language is not None
    assert (found.language.kl_divergence, found.language.top1_agreement) == (0, 1)
    assert found.tensors.worst_relative_error.relative_error == 0
    assert {one.name for one in found.tensors.outputs} >= {"logits", "present.1.value"}
    assert [verdict.passed for verdict in found.verdicts] == [True]


def test_encoders_are_compared_by_their_vectors(
    encoder: Any, sides: Any, sentences: str, tmp_path: Path
) -> None:
    export_model(encoder.checkpoint.source, tmp_path / "out")
    both = sides(tmp_path / "out", tmp_path / "out", sentences)
    with opened_graphs(both.original, both.result, both.text, threads=1) as pair:
        found = pair.measure(Thresholds())
    assert found.encoding is not None
    assert found.encoding.hidden_cosine == pytest.approx(1)
    assert found.tensors.of("last_hidden_state").relative_error == 0
    assert found.notes[0].startswith("the gate judged nothing")


def test_an_encoder_against_a_decoder_is_refused(encoder: Any, sides: Any, exported: Path) -> None:
    both = sides(exported, encoder.graph)
    with (
        pytest.raises(TargetError, match="is an encoder"),
        opened_graphs(both.original, both.result, both.text),
    ):
        pass


def test_models_of_another_depth_or_vocabulary_are_refused(
    tiny: Any, sample: Any, exported: Path, short_text: str, written: Any
) -> None:
    text = held_out_windows(tiny("llama").checkpoint, short_text)
    narrow = tiny("llama").model()
    head = narrow.graph.initializers["lm_head.weight"]
    head.const_value = ir.tensor(np.ones((128, 150), np.float32), name="lm_head.weight")
    head.shape = ir.Shape([128, 150])
    (logits,) = (value for value in narrow.graph.outputs if value.name == "logits")
    logits.shape = ir.Shape(["batch_size", "sequence_length", 150])
    others = {"the caches of 3 layers": sample("llama").graph(), "of 150, and .* of 160": narrow}
    for words, model in others.items():
        other = named_model(written(model))
        with (
            pytest.raises(OutputError, match=words),
            opened_graphs(named_model(exported), other, text),
        ):
            pass


def test_a_damaged_graph_is_refused_with_its_name(
    sides: Any, exported: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes((exported / "model.onnx").read_bytes()[:2000])
    both = sides(exported, damaged)
    with (
        pytest.raises(TargetError, match=r"model\.onnx: ONNX Runtime cannot load"),
        opened_graphs(both.original, both.result, both.text),
    ):
        pass
