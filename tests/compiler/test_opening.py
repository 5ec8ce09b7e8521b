"""A compilation begins with a dtype that was asked for, or the one that is stored most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.opening import float_type_of, text_to_judge_by, tried
from castline.errors import TargetError
from castline.exporters.export import export
from castline.exporters.readers.tensors import TensorSpec
from castline.progress import SilentProgress


def stored(**sizes: int) -> Any:
    types = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "int64": np.dtype(np.int64)}
    tensors = {
        name: TensorSpec((size,), types.get(name, np.dtype(getattr(np, name, np.int64))))
        for name, size in sizes.items()
    }
    return SimpleNamespace(tensors=tensors)


def test_the_type_of_most_weights_is_the_checkpoint_s() -> None:
    mixed = stored(bfloat16=100, float32=3)
    assert float_type_of("checkpoint", mixed) == ir.DataType.BFLOAT16
    assert float_type_of("float16", mixed) == ir.DataType.FLOAT16
    assert float_type_of("checkpoint", stored(int64=9, float32=3)) == ir.DataType.FLOAT


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        TargetError, match="dtype is 'int4'; expected float32, float16, bfloat16 or"
    ):
        float_type_of("int4", stored(float32=1))


def test_an_architecture_that_tests_cover_is_not_tried(tiny: Callable[[str], Any]) -> None:
    exported = export(tiny("llama").checkpoint)
    assert tried(exported, SilentProgress()) is exported


def test_another_is_tried_and_the_outcome_says_so(
    tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from castline.compiler.check import trial

    cut: Any = object()
    monkeypatch.setattr(trial, "try_out", {cut: 2e-6}.__getitem__)
    exported = replace(export(tiny("llama").checkpoint), untried=cut)
    found = tried(exported, SilentProgress())
    assert found.untried is None
    assert "equals Hugging Face's code to 2e-06 of the largest" in found.notes[-1]


def test_the_text_to_judge_by_is_the_one_given(
    tiny: Callable[[str], Any], evaluation_text: str
) -> None:
    text = text_to_judge_by(tiny("llama").checkpoint, evaluation_text, SilentProgress())
    assert text.source == evaluation_text
