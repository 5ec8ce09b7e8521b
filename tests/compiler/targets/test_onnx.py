"""The onnx target leaves the neutral graph as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.onnx import Onnx
from castline.compiler.targets.target import Lowered
from castline.progress import SilentProgress


@pytest.mark.parametrize("recipe", ["float", "w4a16-rtn", "w4a16-rtn-sym", "w8a16-rtn"])
def test_every_recipe_and_dtype_has_a_standard_form(recipe: str) -> None:
    Onnx().require(load_recipe(recipe, ()))
    for dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        Onnx().require_dtype(dtype)


def test_the_graph_stays_as_it_is_in_standard_operators(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    before = [node.op_type for node in model.graph]
    assert Onnx().lower(model, 512) == Lowered()
    assert [node.op_type for node in model.graph] == before
    assert set(model.graph.opset_imports) == {""}


def test_nothing_is_built_beyond_the_model(tmp_path: Path) -> None:
    assert Onnx().build(tmp_path, 512, SilentProgress()).facts == {}
    assert list(tmp_path.iterdir()) == []
