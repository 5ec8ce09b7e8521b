"""Scales of weights take what channels are multiplied by where they are reassembled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.channel_factors import channel_factors
from castline.compiler.passes.factors_into_scales import FactorsIntoScales
from castline.plugins.catalogue import INTEGER_LINEARS
from castline.plugins.linear_w8a8.op import LINEAR_W8A8
from castline.plugins.op import DOMAIN, PluginOp
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
N, K = 6, 8
MAP = {  # channel 1 stands at places 1 and 2, a third each; 2 and 4 at place 4
    "gather": np.array([0, 1, 1, 3, 4, 5]),
    "scale": np.array([1, 1 / 3, 1 / 3, 1, 0.5, 1], np.float32),
    "place": np.array([4]),
    "channel": np.array([2]),
    "channel_scale": np.array([0.5], np.float32),
}
FACTORS = np.array([1, 1 / 3, 0.5, 1, 0.5, 1], np.float32)
FORMS = {  # of the value that is reassembled
    "the linear's own": "made = castline.LINEAR",
    "gated": "up = castline.LINEAR gated = Sigmoid (gate) made = Mul (gated, up)",
    "gated, the linear first": "up = castline.LINEAR made = Mul (up, gate)",
}
GATED = FORMS["gated"]


def reassembled(
    op: PluginOp, form: str, outputs: str = "", scale_type: type = np.float32, **parts: np.ndarray
) -> ir.Model:
    """Return y, reassembled from what `op` makes of codes; its weights are initializers."""
    zeros, grouped = ("weight_zero_point" in op.inputs), ("group_scale" in op.inputs)
    code_type = ml_dtypes.int4 if zeros or grouped else np.int8
    arrays: dict[str, np.ndarray] = {
        "weight_codes": RANDOM.integers(-7, 8, (K, N)).astype(code_type),
        "weight_scale": RANDOM.uniform(0.01, 0.1, N).astype(scale_type),
        **({"weight_zero_point": RANDOM.integers(-3, 4, N).astype(code_type)} if zeros else {}),
        **({"group_scale": RANDOM.integers(1, 17, (2, N)).astype(np.int8)} if grouped else {}),
        **MAP,
        **parts,
    }
    float_type = "float16" if scale_type is np.float16 else "float"
    types = ", ".join(
        f"{ir.DataType.from_numpy(array.dtype).name.lower()}{list(array.shape)} {name}"
        for name, array in arrays.items()
    )
    attributes = f"<block_size = {K // 2}>" if grouped else ""
    linear = f"{op.name} {attributes} (codes, scale_of_x, {', '.join(op.inputs[2:])})"
    model = ir.from_onnx_text(f"""
        <ir_version: 11, opset_import: ["" : 23, "{DOMAIN}" : 1]>
        linear (int8[B, {K}] codes, float[B, 1] scale_of_x, int8[B, 1] zero_point,
                {float_type}[B, {N}] gate, {types}) => ({float_type}[B, {N}] y {outputs})
        {{ {form.replace("LINEAR", linear)}
           y = castline.ReassembleChannels (made, {", ".join(MAP)}) }}
    """)
    op.define_in(model)
    REASSEMBLE_CHANNELS.define_in(model)
    for name, array in arrays.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(array, name=name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/{node.outputs[0].name}/{node.op_type}"
    return model


def fed(model: ir.Model) -> dict[str, np.ndarray]:
    values = {
        "codes": RANDOM.integers(-128, 128, (4, K)).astype(np.int8),
        "scale_of_x": RANDOM.uniform(0.01, 0.1, (4, 1)).astype(np.float32),
        "zero_point": RANDOM.integers(-128, 128, (4, 1)).astype(np.int8),
        "gate": RANDOM.standard_normal((4, N)).astype(np.float32),
    }
    return {str(value.name): values[str(value.name)] for value in model.graph.inputs}


def numbers(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", INTEGER_LINEARS, ids=lambda op: op.name)
def test_the_scales_multiply_and_the_result_is_the_same(
    written: Write, session: Callable[[Path], Any], op: PluginOp, form: str
) -> None:
    model = reassembled(op, FORMS[form])
    scale, feeds = numbers(model, "weight_scale").copy(), fed(model)
    (wanted,) = session(written(model)).run(["y"], feeds)
    assert FactorsIntoScales()(model) == {}
    np.testing.assert_array_equal(numbers(model, "weight_scale"), scale * FACTORS)
    (node,) = [node for node in model.graph if REASSEMBLE_CHANNELS.is_op_of(node)]
    assert channel_factors(node).tolist() == [1] * N  # type: ignore[union-attr]
    (found,) = session(written(model)).run(["y"], feeds)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert list(FactorsIntoScales()(model).values()) == ["all factors are 1"], "nothing more"


DECLINED = {
    "no linear in codes makes the value": {"form": "made = Sigmoid (gate)"},
    "others read the value as it is": {
        "form": f"{GATED} other = Neg (made)",
        "outputs": f", float[B, {N}] other",
    },
    "its rows have no float32 scales": {"form": GATED, "scale_type": np.float16},
    "a channel has several factors": {
        "form": GATED,
        "scale": np.array([1, 0.5, 0.25, 1, 0.5, 1], np.float32),
    },
}


@pytest.mark.parametrize("reason", DECLINED)
def test_declines_what_would_change_another_value(reason: str) -> None:
    model = reassembled(LINEAR_W8A8, **DECLINED[reason])  # type: ignore[arg-type]
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert list(FactorsIntoScales()(model).values()) == [reason]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("more", ["other = Neg (up)", "other = Neg (weight_scale)"])
def test_declines_where_others_read_the_rows_or_their_scales(more: str) -> None:
    model = reassembled(LINEAR_W8A8, f"{GATED} {more}", ", float[N] other")
    assert list(FactorsIntoScales()(model).values()) == ["no linear in codes makes the value"]


def test_one_scale_for_the_whole_matrix_takes_none() -> None:
    model = reassembled(LINEAR_W8A8, GATED, weight_scale=np.array(0.1, np.float32))
    assert list(FactorsIntoScales()(model).values()) == ["its rows have no float32 scales"]
