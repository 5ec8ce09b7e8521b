"""Inputs and outputs of a graph, in Triton's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from castline.compiler.package.triton_config import TritonTensor
from castline.compiler.package.triton_interface import (
    interface_from,
    is_cached,
    warm_up_contents,
    warm_ups,
)
from castline.errors import OutputError

TOKENS = tuple(TritonTensor(name, "TYPE_INT64", (-1,)) for name in ("input_ids", "attention_mask"))
CACHE = TritonTensor("past_key_values.0.key", "TYPE_INT8", (2, -1, 16))


def saved(path: Path, elem_type: int, shape: list[Any]) -> Path:
    value = helper.make_tensor_value_info("x", elem_type, shape)
    onnx.save(helper.make_model(helper.make_graph([], "empty", [value], [])), path)
    return path


def test_the_rows_are_left_out_and_open_sizes_are_minus_one(compiled_folder: Any) -> None:
    inputs, outputs = interface_from(compiled_folder() / "model.onnx")
    assert inputs == (*TOKENS, TritonTensor("past_key_values.0.key", "TYPE_FP32", (1, -1, 1)))
    assert [(one.name, one.dims) for one in outputs] == [
        ("logits", (-1, 1)),
        ("present.0.key", (1, -1, 1)),
    ]
    assert is_cached(inputs)
    assert not is_cached(TOKENS)


@pytest.mark.parametrize(
    ("elem_type", "name"),
    [
        (TensorProto.FLOAT16, "TYPE_FP16"),
        (TensorProto.BFLOAT16, "TYPE_BF16"),
        (TensorProto.INT8, "TYPE_INT8"),
    ],
)
def test_types_have_tritons_names(tmp_path: Path, elem_type: int, name: str) -> None:
    ((found,), _) = interface_from(saved(tmp_path / "m.onnx", elem_type, ["rows", 3]))
    assert found == TritonTensor("x", name, (3,))


def test_what_triton_cannot_take_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="x is FLOAT8E4M3FN; Triton takes TYPE_BOOL"):
        interface_from(saved(tmp_path / "a.onnx", TensorProto.FLOAT8E4M3FN, ["rows"]))
    for shape in ([1, 3], []):
        with pytest.raises(OutputError, match="x has no open first dimension"):
            interface_from(saved(tmp_path / "b.onnx", TensorProto.FLOAT, shape))


def test_a_decoder_warms_up_for_prefill_and_decode() -> None:
    prefill, decode = warm_ups((*TOKENS, CACHE))
    assert prefill.shapes == {
        "input_ids": (8,), "attention_mask": (16,), "past_key_values.0.key": (2, 8, 16),
    }  # fmt: skip
    assert decode.shapes == {
        "input_ids": (1,), "attention_mask": (9,), "past_key_values.0.key": (2, 8, 16),
    }  # fmt: skip
    ((file, content),) = warm_up_contents(decode)
    assert file == decode.files["attention_mask"] == "decode_attention_mask"
    assert np.frombuffer(content, np.int64).tolist() == [1] * 9


def test_an_encoder_warms_up_once() -> None:
    (encode,) = warm_ups(TOKENS)
    assert set(encode.shapes.values()) == {(8,)}
    (alone,) = warm_ups(TOKENS[:1])
    assert alone.files == {}
