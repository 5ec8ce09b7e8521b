"""What TensorRT-RTX lacks becomes plugins, or operators that it has, or is refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.targets.tensorrt.lowering import (
    lower_for_plugins,
    lower_natively,
    plugin_counts,
    refuse_misfits,
)
from castline.compiler.targets.tensorrt.refusals import Finding
from castline.errors import TargetError

HALF = ir.DataType.FLOAT16
ZERO_POINTS = WeightScheme(4, 32, symmetric=False)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_zero_points_become_plugins(sample: Callable[[str], Any]) -> None:
    model = sample("llama").graph(HALF)
    QuantizeWeights(ZERO_POINTS)(model)
    assert lower_for_plugins(model) == ()
    assert plugin_counts(model) == {"PackedLinearW4A16": 21}
    assert [name for _, name, _ in model.functions] == ["PackedLinearW4A16"]


def test_zero_points_become_offsets_without_plugins(sample: Callable[[str], Any]) -> None:
    model = sample("llama").graph(HALF)
    QuantizeWeights(ZERO_POINTS)(model)
    (note,) = lower_natively(model, "tensorrt-rtx")
    assert note == "zero-points of 21 products added as offsets, which changes no weight"
    assert operators(model)["LinearW4A16"] == 21
    assert plugin_counts(model) == {}


def test_products_of_codes_become_plugins(
    sample: Callable[[str], Any], activations: dict[str, Any]
) -> None:
    model = sample("llama").graph(HALF)
    activations["per token"].quantized(model, WeightScheme(8, "per-channel", True))
    assert lower_for_plugins(model) == ()
    counts = plugin_counts(model)
    assert counts == {"PackedLinearW8A8": 21, "QuantizePerToken": 12}
    assert operators(model)["LinearW8A8"] == 0
    assert "LinearW8A8" not in {name for _, name, _ in model.functions}


def test_products_of_codes_are_refused_without_plugins(
    sample: Callable[[str], Any], activations: dict[str, Any]
) -> None:
    model = sample("llama").graph(HALF)
    activations["per token"].quantized(model, WeightScheme(8, "per-channel", True))
    with pytest.raises(TargetError, match=r"has 21 linears that take them at run time\. Leave"):
        lower_natively(model, "tensorrt-rtx")


def test_the_neutral_graph_stays_as_it_is(sample: Callable[[str], Any]) -> None:
    model = sample("llama").graph()
    QuantizeWeights(WeightScheme(4, 32, symmetric=True))(model)
    before = operators(model)
    assert lower_for_plugins(model) == lower_natively(model, "tensorrt-rtx") == ()
    assert operators(model) == before


def test_stacks_of_experts_add_offsets(sample: Callable[[str], Any]) -> None:
    model = sample("mixtral").graph(HALF)
    QuantizeWeights(ZERO_POINTS)(model)
    (note,) = lower_for_plugins(model)
    stacks = operators(model)["LinearW4A16"]
    assert stacks > 0
    assert note == (
        f"zero-points of {stacks} stacks of experts added as offsets, which changes no weight"
    )
    assert operators(model)["PackedLinearW4A16"] > 0


def test_float32_is_refused_with_the_ways_out(sample: Callable[[str], Any]) -> None:
    model = sample("llama").graph()
    QuantizeWeights(ZERO_POINTS)(model)
    with pytest.raises(TargetError) as raised:
        lower_for_plugins(model)
    message = str(raised.value)
    assert "and 13 more (weight-only product): it computes in float" in message
    assert "use --dtype float16" in message
    assert "use --plugins never, or leave them in float (keep: in the recipe)" in message


def test_one_scale_for_all_is_refused_by_name(
    sample: Callable[[str], Any], activations: dict[str, Any]
) -> None:
    scheme = ActivationScheme(8, "per-tensor", dynamic=True)
    model = sample("llama").graph(HALF)
    activations["per tensor"].quantized(model, WeightScheme(8, "per-channel", True))
    assert activations["per tensor"].scheme == scheme
    with pytest.raises(TargetError, match=r"(?s)integer product\): one scale .* token") as raised:
        lower_for_plugins(model)
    assert "--plugins never" not in str(raised.value)


def test_misfits_are_listed_with_a_way_without_plugins_if_there_is_one() -> None:
    refuse_misfits((), native=True)
    found = [Finding("model.up.weight", "linear", "its input dimension 40 is no multiple of 16")]
    with pytest.raises(TargetError, match=r"(?s)  model\.up\.weight \(linear\): .*--plugins never"):
        refuse_misfits(found, native=True)
    with pytest.raises(TargetError) as raised:
        refuse_misfits(found, native=False)
    assert "--plugins" not in str(raised.value)
