"""Channels that move are scattered, and the result has the bits of the op."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.scatter_channels import ScatterChannels
from castline.compiler.quant.channel_map import ChannelMap, identity
from castline.plugins.op import DOMAIN
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
K = 8
SPLIT = ChannelMap(
    np.array([0, 2, 2, 3, 4, 2, 6, 7]),
    np.array([1, 1 / 3, 1 / 3, 1, 1, 1 / 3, 1, 1], np.float32),
    *list(vars(identity(K)).values())[2:],
)
# Channel 2 stands at three places, a third each; 0 and 1 at one place, as 4, 5 and 6.
BOTH = ChannelMap(
    np.array([0, 2, 2, 3, 4, 2, 7, 7]),
    np.array([1 / 2, 1 / 3, 1 / 3, 1, 1 / 3, 1 / 3, 1 / 2, 1 / 2], np.float32),
    np.array([0, 4, 4]),
    np.array([1, 5, 6]),
    np.array([1 / 2, 1 / 3, 1 / 3], np.float32),
)
ONES = ChannelMap(BOTH.gather, np.ones((), np.float32), BOTH.place, BOTH.channel, np.ones(3))
MAPS = {"split": SPLIT, "split and merged": BOTH, "factors of 1": ONES, "none": identity(K)}


def reassembled(channels: ChannelMap, dtype: type = np.float32) -> ir.Model:
    kind = "float" if dtype is np.float32 else "float16"
    parts = {name: np.asarray(part) for name, part in vars(channels).items()}
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23, "{DOMAIN}" : 1]>
        g ({kind}[B, S, {K}] x) => ({kind}[B, S, {K}] y)
        {{ y = castline.ReassembleChannels (x, {", ".join(parts)}) }}
    """)
    REASSEMBLE_CHANNELS.define_in(model)
    model.graph[0].name = "/reassemble"
    for value, array in zip(model.graph[0].inputs[1:], parts.values(), strict=True):
        assert value is not None
        kept = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        value.const_value = ir.Tensor(kept, name=value.name)
        value.shape, value.dtype = value.const_value.shape, value.const_value.dtype
        model.graph.initializers.add(value)
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kind", MAPS)
def test_every_bit_is_the_maps(
    written: Write, session: Callable[[Path], Any], kind: str, dtype: type
) -> None:
    model = reassembled(MAPS[kind], dtype)
    assert ScatterChannels()(model) == {}
    counts = Counter(node.op_type for node in model.graph)
    assert counts["ReassembleChannels"] == 0
    assert counts["Mul"] == (0 if kind in ("factors of 1", "none") else 1)
    runs = session(written(model))
    for shape in ((2, 3, K), (1, 1, K), (0, 2, K)):
        x = (100 * RANDOM.standard_normal(shape)).astype(dtype)
        (found,) = runs.run(["y"], {"x": x})
        np.testing.assert_array_equal(found, MAPS[kind].of_values(x), strict=True)


def test_declines_a_channel_of_several_factors() -> None:
    scale = SPLIT.scale * np.array([1, 1, 2, 1, 1, 1, 1, 1], np.float32)
    model = reassembled(ChannelMap(SPLIT.gather, scale, *list(vars(SPLIT).values())[2:]))
    assert ScatterChannels()(model) == {"/reassemble": "a channel has several factors"}
    assert [node.op_type for node in model.graph] == ["ReassembleChannels"]


def test_twice_changes_nothing_more() -> None:
    model = reassembled(BOTH)
    ScatterChannels()(model)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    assert ScatterChannels()(model) == {}
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once
