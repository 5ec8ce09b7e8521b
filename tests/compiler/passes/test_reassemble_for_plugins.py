"""Reassembled channels are written for plugins, and quantized at once where nothing else reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.reassemble_for_plugins import ReassembleForPlugins
from castline.compiler.quant.channel_map import ChannelMap, identity
from castline.plugins.op import DOMAIN
from castline.plugins.quantize_per_token.op import (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
)
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
K = 8
MIXED = ChannelMap(
    np.array([0, 2, 2, 3, 4, 2, 7, 7]),
    np.array([1 / 2, 1 / 3, 1 / 3, 1, 1 / 3, 1 / 3, 1 / 2, 1 / 2], np.float32),
    np.array([4, 0, 4]),  # not in order; place 4 takes 5 before 6
    np.array([5, 1, 6]),
    np.array([1 / 3, 1 / 2, 1 / 7], np.float32),
)
ONES = ChannelMap(MIXED.gather, np.ones((), np.float32), *list(vars(MIXED).values())[2:])
MAPS = {"mixed": MIXED, "one scale": ONES, "no more channels": identity(K)}
QUANTIZE = {True: QUANTIZE_PER_TOKEN, False: QUANTIZE_PER_TOKEN_ASYMMETRIC}


def model_of(channels: ChannelMap, *, symmetric: bool, read_twice: bool = False) -> ir.Model:
    quantize = QUANTIZE[symmetric]
    parts = {name: np.asarray(part) for name, part in vars(channels).items()}
    results = ", ".join(
        f"{'float' if name == 'scale' else 'int8'}[B, S, W{i}] {name}_of"
        for i, name in enumerate(quantize.outputs)
    )
    also = "also = Neg (y)" if read_twice else ""
    codes = ", ".join(f"{name}_of" for name in quantize.outputs)
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23, "{DOMAIN}" : 1]>
        g (float16[B, S, {K}] x) => ({results}{", float16[B, S, 8] also" if read_twice else ""})
        {{ y = {DOMAIN}.ReassembleChannels (x, {", ".join(f"in_{name}" for name in parts)})
           {codes} = {DOMAIN}.{quantize.name} <bits = 4> (y)
           {also} }}
    """)
    for op in (REASSEMBLE_CHANNELS, quantize):
        op.define_in(model)
    model.graph[0].name, model.graph[1].name = "/layer/Reassemble", "/layer/Quantize"
    for value, array in zip(model.graph[0].inputs[1:], parts.values(), strict=True):
        assert value is not None
        kept = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        value.const_value = ir.Tensor(kept, name=value.name)
        value.shape, value.dtype = value.const_value.shape, value.const_value.dtype
        model.graph.initializers.add(value)
    return model


@pytest.mark.parametrize("symmetric", [True, False], ids=["around zero", "with zero-points"])
@pytest.mark.parametrize("name", MAPS)
def test_codes_and_scales_keep_every_bit(
    written: Write, session: Callable[[Path], Any], name: str, symmetric: bool
) -> None:
    model = model_of(MAPS[name], symmetric=symmetric)
    x = RANDOM.standard_normal((2, 3, K)).astype(np.float16)
    expected = session(written(model)).run(None, {"x": x})
    assert ReassembleForPlugins()(model) == 1
    op = "ReassembleAndQuantize" if symmetric else "ReassembleAndQuantizeAsymmetric"
    assert [node.op_type for node in model.graph] == [op]
    assert model.graph[0].attributes["bits"].as_int() == 4
    found = session(written(model)).run(None, {"x": x})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize("name", MAPS)
def test_what_plugins_read_is_int32_and_in_order(name: str) -> None:
    model = model_of(MAPS[name], symmetric=True)
    ReassembleForPlugins()(model)
    parts = [ir.convenience.get_const_tensor(v) for v in model.graph[0].inputs[1:] if v is not None]
    gather, scale, place, channel, factor = (part.numpy() for part in parts if part is not None)
    assert {gather.dtype, place.dtype, channel.dtype} == {np.dtype(np.int32)}
    assert scale.shape == (K,)
    assert (np.diff(place) >= 0).all()
    if name == "no more channels":
        assert (place.tolist(), channel.tolist(), factor.tolist()) == ([0], [0], [0])
    else:
        assert (place.tolist(), channel.tolist()) == ([0, 4, 4], [1, 5, 6])
    assert len(model.graph.initializers) == 5, "what was read before is gone"


def test_a_value_that_others_read_is_only_reassembled(
    written: Write, session: Callable[[Path], Any]
) -> None:
    model = model_of(MIXED, symmetric=True, read_twice=True)
    x = RANDOM.standard_normal((2, 3, K)).astype(np.float16)
    expected = session(written(model)).run(None, {"x": x})
    assert ReassembleForPlugins()(model) == 0
    operators = [node.op_type for node in model.graph]
    assert operators == ["ReassembleChannels", "QuantizePerToken", "Neg"]
    for one, other in zip(session(written(model)).run(None, {"x": x}), expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_twice_changes_nothing_more() -> None:
    model = model_of(MIXED, symmetric=True, read_twice=True)
    ReassembleForPlugins()(model)
    before = list(model.graph.initializers)
    assert ReassembleForPlugins()(model) == 0
    assert list(model.graph.initializers) == before
