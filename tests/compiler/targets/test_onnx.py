"""The onnx target leaves the neutral graph as it is, but for experts and signed codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
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


@pytest.mark.parametrize("scheme", [None, WeightScheme(4, 32, False)], ids=str)
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_experts_get_the_tokens_that_chose_them_in_standard_operators(
    mixture_decoder: Callable[[str], ir.Model],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    mixture_scenarios: dict[str, Any],
    name: str,
    scheme: WeightScheme | None,
) -> None:
    dense, sparse = mixture_decoder(name), mixture_decoder(name)
    if scheme is not None:
        for model in (dense, sparse):
            QuantizeWeights(scheme)(model)
    assert Onnx().lower(sparse, 512) == Lowered()
    assert set(sparse.graph.opset_imports) == {""}
    stored = [v.shape for v in sparse.graph.initializers.values() if v.shape is not None]
    assert max(len(shape) for shape in stored) == 2, "no matrices are stacked any more"
    before, after = written(dense), written(sparse)
    for steps in mixture_scenarios.values():
        for found, wanted in zip(run_steps(after, steps), run_steps(before, steps), strict=True):
            assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("kind", ["static", "per token", "per tensor"])
def test_onnx_runtime_multiplies_integers_in_every_layer(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    activations: dict[str, Any],
    optimized_operators: Callable[[Path], Counter[str]],
    kind: str,
    granularity: str,
) -> None:
    model = tiny("qwen2").model()
    scheme = WeightScheme(8, granularity, True)  # type: ignore[arg-type]
    names = activations[kind].quantized(model, scheme)
    assert Onnx().lower(model, 512) == Lowered()
    operators = optimized_operators(written(model))
    integer = ("MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul")
    assert sum(operators[op] for op in integer) == len(names)
    assert operators["MatMul"] == 0


@pytest.mark.parametrize("kind", ["static", "per token", "per tensor"])
def test_activations_in_codes_stay_near_those_in_float(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    activations: dict[str, Any],
    kind: str,
) -> None:
    scheme = WeightScheme(8, "per-channel", True)
    plain, model = tiny("llama").model(), tiny("llama").model()
    QuantizeWeights(scheme)(plain)
    activations[kind].quantized(model, scheme)
    Onnx().lower(model, 512)
    before, after = written(plain), written(model)
    for scenario in ("prefill", "left padding"):
        steps = scenarios[scenario]
        for found, wanted in zip(run_steps(after, steps), run_steps(before, steps), strict=True):
            difference = np.abs(found - wanted).max() / np.abs(wanted).max()
            assert 0 < difference < 0.1


def test_experts_that_stay_dense_are_noted(mixture_decoder: Callable[[str], ir.Model]) -> None:
    model = mixture_decoder("mixtral")
    for node in [node for node in model.graph if node.op_type == "Sigmoid"]:
        node.op_type = "Softmax"
    reason = "Softmax in between may mix tokens"
    assert Onnx().lower(model, 512).notes == (f"3 nodes computed by every expert: {reason}",)


def test_nothing_is_built_beyond_the_model(tmp_path: Path) -> None:
    assert Onnx().build(tmp_path, 512, SilentProgress()).facts == {}
    assert list(tmp_path.iterdir()) == []
