"""A gate and what it multiplies are one product where they can be, and are left alone where not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.group_query_attention import GroupQueryAttention
from castline.compiler.passes.matmul_nbits import MatMulNBits
from castline.compiler.passes.pack_gates import PackGates
from castline.compiler.passes.pack_projections import PackProjections
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme

INT4 = WeightScheme(4, 32, False)


def lowered(model: ir.Model, scheme: WeightScheme = INT4) -> ir.Model:
    QuantizeWeights(scheme)(model)
    MatMulNBits(accuracy_level=1)(model)
    GroupQueryAttention(64)(model)
    PackProjections()(model)
    return model


def products_of(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "MatMulNBits"]


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("scheme", [INT4, WeightScheme(8, "per-channel", True)], ids=str)
def test_the_logits_stay_the_same(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    name: str,
    scheme: WeightScheme,
) -> None:
    model = lowered(tiny(name).model(), scheme)
    before = written(model)
    model = ir.load(before)
    count = len(products_of(model))
    width = next(
        node.attributes.get_int("N") for node in products_of(model) if "gate_proj" in str(node.name)
    )
    assert PackGates()(model) == 2  # a tiny model has two layers
    assert len(products_of(model)) == count - 2
    packed = [node for node in model.graph if "gate_proj_up_proj" in str(node.name)]
    assert [node.op_type for node in packed] == ["MatMulNBits", "Split"] * 2
    assert packed[0].attributes.get_int("N") == 2 * width
    path = "model.layers.0.mlp.gate_proj_up_proj"
    expected = [f"{path}.weight_quantized_packed", f"{path}.weight_scale_packed"]
    expected += [] if scheme.symmetric else [f"{path}.weight_zero_point_packed"]
    assert [value.name for value in packed[0].inputs[1:] if value is not None] == expected
    after = written(model)
    steps = scenarios["left padding"]
    for found, wanted in zip(run_steps(after, steps), run_steps(before, steps), strict=True):
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_what_the_products_gave_keeps_its_name(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("llama").model())
    names = {node.outputs[0].name for node in products_of(model)}
    PackGates()(model)
    given = {value.name for node in model.graph for value in node.outputs}
    assert names <= given


def test_three_that_read_one_value_are_left_alone(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("qwen3").model())  # norms stand behind its queries and keys
    assert PackGates()(model) == 2
    apart = {str(node.name).split("/")[-2] for node in products_of(model)}
    assert {"q_proj", "k_proj", "v_proj"} <= apart


def test_products_of_different_forms_are_left_alone(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("llama").model())
    gate = next(node for node in products_of(model) if "gate_proj" in str(node.name))
    gate.attributes["block_size"] = ir.AttrInt64("block_size", 16)
    assert PackGates()(model) == 1


def test_products_of_different_sizes_are_left_alone(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("llama").model())
    gate = next(node for node in products_of(model) if "gate_proj" in str(node.name))
    packed = gate.inputs[1]
    assert packed is not None
    assert packed.shape is not None
    packed.shape = ir.Shape([64, *packed.shape[1:]])
    assert PackGates()(model) == 1


@pytest.mark.parametrize(
    "scheme",
    [
        WeightScheme(8, "per-channel", True),
        WeightScheme(4, "per-channel", False),
        WeightScheme(4, 32, True, two_level=True),
    ],
    ids=str,
)
def test_products_of_codes_by_codes_are_joined_bit_for_bit(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    multiply_codes: Callable[..., None],
    scheme: WeightScheme,
) -> None:
    model = tiny("llama").model()
    multiply_codes(model, scheme)
    GroupQueryAttention(64)(model)
    PackProjections()(model)
    before = written(model)
    model = ir.load(before)
    assert PackGates()(model) == 2
    assert [node.op_type for node in model.graph].count("Split") == 2
    steps = scenarios["left padding"]
    for found, wanted in zip(
        run_steps(written(model), steps), run_steps(before, steps), strict=True
    ):
        assert (found == wanted).all()


def test_products_with_one_scale_each_are_left_alone(
    tiny: Callable[[str], Any], multiply_codes: Callable[..., None]
) -> None:
    model = tiny("llama").model()
    multiply_codes(model, WeightScheme(8, "per-tensor", True))
    assert PackGates()(model) == 0


def test_products_of_different_values_are_left_alone(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("llama").model())
    gate = next(node for node in products_of(model) if "gate_proj" in str(node.name))
    source = gate.inputs[0]
    assert source is not None
    copy = ir.node("Identity", [source])
    model.graph.insert_before(gate, copy)
    gate.replace_input_with(0, copy.outputs[0])
    assert PackGates()(model) == 1


def test_an_output_of_the_graph_is_left_alone(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("llama").model())
    up = next(node for node in products_of(model) if "up_proj" in str(node.name))
    model.graph.outputs.append(up.outputs[0])
    assert PackGates()(model) == 1


def test_twice_changes_nothing_more(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("llama").model())
    assert PackGates()(model) == 2
    assert PackGates()(model) == 0
