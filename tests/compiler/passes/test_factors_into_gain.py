"""Gains of norms take what channels are multiplied by where they are reassembled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.channel_factors import channel_factors
from castline.compiler.passes.factors_into_gain import FactorsIntoGain
from castline.plugins.op import DOMAIN
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
K = 6
# Channel 1 stands at places 1 and 2, a half each; 2 and 4 at place 4.
MAP = {
    "gather": np.array([0, 1, 1, 3, 4, 5]),
    "scale": np.array([1, 0.5, 0.5, 1, 0.5, 1], np.float32),
    "place": np.array([4]),
    "channel": np.array([2]),
    "channel_scale": np.array([0.5], np.float32),
}
FACTORS = [1, 0.5, 0.5, 1, 0.5, 1]
NORMS = {
    "RMSNormalization": "made = RMSNormalization <axis = -1> (x, gain)",
    "LayerNormalization": "made = LayerNormalization <axis = -1> (x, gain)",
    "with a bias": "made = LayerNormalization <axis = -1> (x, gain, bias)",
    "1 + w": "shown = Add (gain, one) made = RMSNormalization <axis = -1> (x, shown)",
}


def reassembled(norm: str, more: str = "", outputs: str = "", **parts: np.ndarray) -> ir.Model:
    """Return y, the reassembled result of a norm; all constants are initializers."""
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23, "{DOMAIN}" : 1]>
        norm (float[B, {K}] x, float[{K}] gain, float[{K}] bias, float one, {inputs_of(MAP)})
            => (float[B, {K}] y {outputs})
        {{ {norm} {more}
           y = castline.ReassembleChannels (made, {", ".join(MAP)}) }}
    """)
    REASSEMBLE_CHANNELS.define_in(model)
    gain, bias = RANDOM.uniform(0.5, 2, (2, K)).astype(np.float32)
    arrays = {"gain": gain, "bias": bias, "one": np.array(1, np.float32)} | MAP | parts
    for name, array in arrays.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        if value.consumers():
            value.const_value = ir.Tensor(array, name=name)
            model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/{node.outputs[0].name}/{node.op_type}"
    return model


def inputs_of(parts: dict[str, np.ndarray]) -> str:
    kinds = {"f": "float", "i": "int64"}
    return ", ".join(f"{kinds[a.dtype.kind]}[{len(a)}] {name}" for name, a in parts.items())


def numbers(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("kind", NORMS)
def test_the_gain_multiplies_and_the_result_is_the_same(
    written: Write, session: Callable[[Path], Any], kind: str
) -> None:
    model = reassembled(NORMS[kind])
    gain = numbers(model, "gain").copy()
    x = RANDOM.standard_normal((4, K)).astype(np.float32)
    (wanted,) = session(written(model)).run(["y"], {"x": x})
    assert FactorsIntoGain()(model) == {}
    offset = 1 if kind == "1 + w" else 0
    np.testing.assert_allclose(
        numbers(model, "gain"), (gain + offset) * np.array(FACTORS) - offset, rtol=1e-6
    )
    (node,) = [node for node in model.graph if REASSEMBLE_CHANNELS.is_op_of(node)]
    assert channel_factors(node).tolist() == [1] * K  # type: ignore[union-attr]
    assert not {"scale", "channel_scale"} & model.graph.initializers.keys()
    (found,) = session(written(model)).run(["y"], {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert list(FactorsIntoGain()(model).values()) == ["all factors are 1"], "nothing more"


PLAIN = NORMS["RMSNormalization"]
DECLINED = {
    "no norm makes the value": {"norm": "made = Mul (x, gain)"},
    "others read the value as it is": {
        "norm": PLAIN,
        "more": "other = Neg (made)",
        "outputs": f", float[B, {K}] other",
    },
    "others read the gain": {
        "norm": PLAIN,
        "more": "other = Neg (gain)",
        "outputs": f", float[{K}] other",
    },
    "the gain of the norm is computed": {
        "norm": "shown = Neg (gain) made = RMSNormalization <axis = -1> (x, shown)"
    },
    "a channel has several factors": {
        "norm": PLAIN,
        "scale": np.array([1, 0.5, 0.25, 1, 0.5, 1], np.float32),
    },
}


@pytest.mark.parametrize("reason", DECLINED)
def test_declines_what_would_change_another_value(reason: str) -> None:
    model = reassembled(**DECLINED[reason])  # type: ignore[arg-type]
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert list(FactorsIntoGain()(model).values()) == [reason]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
