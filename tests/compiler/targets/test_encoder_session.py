"""An encoder's session gives a vector for each token, and says in words what it cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from castline.compiler.targets.context import note_context
from castline.compiler.targets.encoder_session import EncoderSession
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.write import write_model
from castline.errors import TargetError

# A token's vector is (token, how many tokens there are, segment).
GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
encoder (int64[B, S] input_ids, int64[B, S] attention_mask SEGMENTS)
     => (TYPE[B, S, 3] last_hidden_state)
<int64[1] axis = {1}, int64[1] last = {-1}>
{
    count = ReduceSum (attention_mask, axis)
    counts = Mul (attention_mask, count)
    segment = Mul (KIND, attention_mask)
    ids = Unsqueeze (input_ids, last)
    counts_column = Unsqueeze (counts, last)
    segment_column = Unsqueeze (segment, last)
    whole = Concat <axis: int = -1> (ids, counts_column, segment_column)
    last_hidden_state = Cast <to: int = ELEMENT> (whole)
}
"""
FLOAT, HALF = ("float", 1), ("float16", 10)
TOKENS = np.array([[7, 8, 9], [5, 6, 0]])
MASK = np.array([[1, 1, 1], [1, 1, 0]])


def encoder_file(folder: Path, kind: tuple[str, int] = FLOAT, *, segments: bool = True) -> Path:
    text = GRAPH.replace("TYPE", kind[0]).replace("ELEMENT", str(kind[1]))
    text = text.replace("SEGMENTS", ", int64[B, S] token_type_ids" if segments else "")
    text = text.replace("KIND", "token_type_ids" if segments else "attention_mask")
    model = ir.from_proto(onnx.parser.parse_model(text))
    note_context(model, 4)
    return write_model(model, folder)


@pytest.mark.parametrize("kind", [FLOAT, HALF])
def test_gives_float32_vectors_of_a_folder(tmp_path: Path, kind: tuple[str, int]) -> None:
    encoder_file(tmp_path, kind)
    found = EncoderSession.open(tmp_path, threads=1).hidden(TOKENS, MASK)
    assert found.dtype == np.float32
    assert found.tolist() == [
        [[7, 3, 0], [8, 3, 0], [9, 3, 0]],
        [[5, 2, 0], [6, 2, 0], [0, 0, 0]],
    ]


def test_no_mask_means_no_padding(tmp_path: Path) -> None:
    session = EncoderSession.open(encoder_file(tmp_path), threads=1)
    assert session.hidden(TOKENS)[1].tolist() == [[5, 3, 0], [6, 3, 0], [0, 3, 0]]


def test_segments_are_passed_on(tmp_path: Path) -> None:
    session = EncoderSession.open(encoder_file(tmp_path), threads=1)
    found = session.hidden(TOKENS, MASK, np.array([[0, 0, 1], [0, 1, 1]]))
    assert found[..., 2].tolist() == [[0, 0, 1], [0, 1, 0]]


def test_a_model_without_segments_takes_none(tmp_path: Path) -> None:
    session = EncoderSession.open(encoder_file(tmp_path, segments=False), threads=1)
    assert session.hidden(TOKENS)[..., 0].tolist() == TOKENS.tolist()
    with pytest.raises(TargetError, match="has no segments"):
        session.hidden(TOKENS, None, np.zeros_like(TOKENS))


def test_a_text_beyond_what_the_model_reads_is_refused(tmp_path: Path) -> None:
    session = EncoderSession.open(encoder_file(tmp_path), threads=1)
    assert session.hidden(np.ones((1, 4), np.int64)).shape == (1, 4, 3)
    with pytest.raises(TargetError, match="5 tokens given, but the model reads 4 at most"):
        session.hidden(np.ones((1, 5), np.int64))


def test_what_onnx_runtime_refuses_is_said(tmp_path: Path) -> None:
    session = EncoderSession.open(encoder_file(tmp_path), threads=1)
    with pytest.raises(TargetError, match="ONNX Runtime could not run the model"):
        session.hidden(TOKENS, np.ones((5, 7), np.int64))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"model\.onnx does not exist"):
        EncoderSession.open(tmp_path)


def test_a_decoder_and_an_encoder_are_told_apart(tiny: Any, encoder: Any) -> None:
    with pytest.raises(TargetError, match=r"is a decoder: it writes text .*castline generate"):
        EncoderSession.open(tiny("llama").graph)
    with pytest.raises(TargetError, match=r"is an encoder: it gives a vector .*castline embed"):
        DecoderSession.open(encoder.graph)


def test_a_graph_of_something_else_is_shown_with_its_inputs(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    other (float[N] x) => (float[N] y) { y = Abs (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    with pytest.raises(
        TargetError, match=r"is not an encoder: expected .*inputs are x, its outputs y"
    ):
        EncoderSession.open(tmp_path)
