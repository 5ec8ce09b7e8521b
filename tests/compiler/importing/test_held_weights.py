"""Weights are found in every form that a target gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.importing.held_weights import held_weights
from castline.compiler.importing.imported import imported
from castline.compiler.importing.placing import place_codes
from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.round_to_nearest import dequantize, quantize
from castline.compiler.quant.scheme import WeightScheme
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.export import export

Lower = Callable[[ir.Model, str], None]
TARGETS = ["onnx", "onnxruntime", "tensorrt-rtx", "plugins"]
INT4 = WeightScheme(4, 32, symmetric=False)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "way",
    ["zero-points", "offsets", "act-order", "int8", "int8 dynamic", "int8 static", "float8 static"],
)
def test_a_lowered_graph_holds_every_weight_as_stored(
    stored_in: Callable[[str], Checkpoint], lower: Lower, way: str, target: str
) -> None:
    if (way, target) == ("int8 dynamic", "tensorrt-rtx"):
        pytest.skip("without plugins it refuses activations that are quantized at run time")
    checkpoint = stored_in(way)
    dtype = ir.DataType.FLOAT16 if target == "plugins" else ir.DataType.FLOAT
    model = export(checkpoint, dtype).model
    given = imported(checkpoint).given
    place_codes(model, imported(checkpoint))
    lower(model, target)
    held = held_weights(model, given)
    assert held.keys() == given.keys()
    for name, matrices in held.items():
        (found,), (wanted,) = matrices(), given[name].matrices()
        np.testing.assert_allclose(found, dequantize(wanted), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("target", ["onnx", "onnxruntime", "tensorrt-rtx"])
def test_float_weights_are_found_too(tiny: Callable[[str], Any], lower: Lower, target: str) -> None:
    checkpoint = tiny("tied").checkpoint
    model = export(checkpoint).model
    lower(model, target)
    names = [name for name in checkpoint.tensors if name.endswith("proj.weight")]
    held = held_weights(model, [*names, "model.embed_tokens.weight"])
    assert held.keys() == {*names, "model.embed_tokens.weight"}, "the head is tied to the last"
    for name, matrices in held.items():
        (found,) = matrices()
        np.testing.assert_array_equal(found, checkpoint.read(name).T)


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
def test_a_head_that_shares_the_tables_codes_is_found(
    tiny: Callable[[str], Any], lower: Lower, target: str
) -> None:
    checkpoint = tiny("tied").checkpoint
    model = export(checkpoint).model
    QuantizeEmbedding(INT4, with_head=True)(model)
    lower(model, target)
    (found,) = held_weights(model, ["model.embed_tokens.weight"])["model.embed_tokens.weight"]()
    table = checkpoint.read("model.embed_tokens.weight")
    np.testing.assert_array_equal(found, dequantize(quantize(table.T, INT4)))


@pytest.mark.parametrize("target", ["onnx", "onnxruntime", "tensorrt-rtx"])
@pytest.mark.parametrize(
    "scheme", [INT4, WeightScheme(8, "per-channel", True), WeightScheme(4, 16, True)], ids=str
)
def test_experts_are_found_one_after_the_other(
    mixtral: Callable[[], ir.Model], lower: Lower, target: str, scheme: WeightScheme
) -> None:
    stacks = {
        name: value.const_value.numpy()
        for name, value in mixtral().graph.initializers.items()
        if value.const_value is not None and len(value.const_value.shape) == 3
    }
    assert stacks
    model = mixtral()
    QuantizeWeights(scheme)(model)
    lower(model, target)
    held = held_weights(model, stacks)
    assert held.keys() == stacks.keys()
    for name, matrices in held.items():
        for found, weights in zip(matrices(), stacks[name], strict=True):
            wanted = dequantize(quantize(weights, scheme))
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.fixture
def mixtral(sample: Callable[[str], Any]) -> Callable[[], ir.Model]:
    """Return what builds a graph whose experts' matrices are stacked [E, K, N]."""
    return lambda: sample("mixtral").graph()
