"""Caches hold codes, and attention reads what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.group_query_attention import GroupQueryAttention
from castline.compiler.passes.quantize_cache import QuantizeCache
from castline.compiler.plan.decisions import PlannedCache
from castline.exporters.names import past_name, present_name

Write = Callable[[ir.Model], Path]
Run = Callable[..., list[np.ndarray]]
CONTEXT = 512

# One head of width 2, and an attention that is the sum over tokens.
LAYER = """
<ir_version: 10, opset_import: ["" : 23]>
layer (float[B, 1, S, 2] key, float[B, 1, S, 2] value,
       float[B, 1, P, 2] past_key, float[B, 1, P, 2] past_value)
   => (float[B, 1, 2] sum, float[B, 1, T, 2] present_key, float[B, 1, T, 2] present_value)
<int64[1] tokens = {2}>
{
    present_key = Concat <axis = 2> (past_key, key)
    present_value = Concat <axis = 2> (past_value, value)
    product = Mul (present_key, present_value)
    sum = ReduceSum <keepdims = 0> (product, tokens)
}
"""


def layer() -> ir.Model:
    model = ir.from_onnx_text(LAYER)
    for value in (*model.graph.inputs, *model.graph.outputs):
        time, _, slot = str(value.name).partition("_")
        value.name = {"past": past_name, "present": present_name}[time](0, slot) if slot else time
    for node in model.graph:
        node.name = f"/layer/{node.outputs[0].name}"
    return model


def per_tensor(key: float = 0.5, value: float = 0.25) -> PlannedCache:
    return PlannedCache(np.array([key], np.float32), np.array([value], np.float32))


def channels(model: ir.Model, seed: int = 0) -> dict[int, PlannedCache]:
    """Return scales for the caches of a decoder, one for each channel of each head."""
    random = np.random.default_rng(seed)
    sizes: dict[int, tuple[int, int]] = {}
    for value in model.graph.inputs:
        if str(value.name).endswith(".key"):
            assert value.shape is not None
            heads, width = value.shape[1], value.shape[3]
            assert isinstance(heads, int)
            assert isinstance(width, int)
            sizes[int(str(value.name).split(".")[1])] = (heads, width)
    return {
        index: PlannedCache(
            *(random.uniform(0.02, 0.05, size).astype(np.float32) for _ in range(2))
        )
        for index, size in sizes.items()
    }


def inputs() -> dict[str, np.ndarray]:
    return {
        "key": np.array([[[[1.1, -70]]]], np.float32),
        "value": np.array([[[[0.4, -0.1]]]], np.float32),
        "past_key_values.0.key": np.array([[[[3, -4]]]], np.int8),
        "past_key_values.0.value": np.array([[[[5, 6]]]], np.int8),
    }


def test_new_entries_join_as_codes_and_all_are_read_by_their_scales(
    written: Write, session: Callable[[Path], Any]
) -> None:
    model = layer()
    done = QuantizeCache({0: per_tensor()})(model)
    assert done.names == ["past_key_values.0.key", "past_key_values.0.value"]
    assert done.left == {}
    total, key, value = session(written(model)).run(None, inputs())
    np.testing.assert_array_equal(key, np.array([[[[3, -4], [2, -128]]]], np.int8), strict=True)
    np.testing.assert_array_equal(value, np.array([[[[5, 6], [2, 0]]]], np.int8), strict=True)
    np.testing.assert_array_equal(total, [[[1.5 * 1.25 + 1 * 0.5, -2 * 1.5 - 64 * 0]]])


def test_each_channel_may_have_its_scale(written: Write, session: Callable[[Path], Any]) -> None:
    model = layer()
    planned = PlannedCache(np.array([[1, 10]], np.float32), np.array([[0.1, 0.2]], np.float32))
    QuantizeCache({0: planned})(model)
    total, key, value = session(written(model)).run(None, inputs())
    np.testing.assert_array_equal(key, [[[[3, -4], [1, -7]]]])
    np.testing.assert_array_equal(value, [[[[5, 6], [4, 0]]]])
    np.testing.assert_allclose(total, [[[3 * 0.5 + 1 * 0.4, -40 * 1.2 - 70 * 0]]], rtol=1e-6)


@pytest.mark.parametrize("shared", [False, True], ids=["growing", "shared"])
@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
def test_the_lowered_attention_reads_the_same_codes(
    tiny: Callable[[str], Any],
    written: Write,
    run_steps: Run,
    scenarios: dict[str, Any],
    name: str,
    granularity: str,
    shared: bool,
) -> None:
    paths = []
    for lowered in (False, True):
        model = tiny(name).model()
        caches = channels(model)
        if granularity == "per-tensor":
            caches = dict.fromkeys(caches, per_tensor(0.03, 0.04))
        assert QuantizeCache(caches)(model).left == {}
        if lowered:
            assert GroupQueryAttention(CONTEXT)(model) == {}
            kinds = {n.op_type for n in model.graph}
            assert not kinds & {"Attention", "QuantizeLinear", "DequantizeLinear"}
        paths.append(written(model))
    for scenario in ("decode", "left padding", "pieces"):
        steps = scenarios[scenario]
        wanted = run_steps(paths[0], steps)
        found = run_steps(paths[1], steps, shared=shared)
        for a, b in zip(found, wanted, strict=True):
            # A key that lies between two codes may fall to the other: its rotation is rounded.
            assert np.abs(a - b).max() <= 0.02 * np.abs(b).max(), scenario
            assert np.median(np.abs(a - b)) <= 1e-3 * np.abs(b).max(), scenario


def test_twice_changes_nothing_more() -> None:
    model = layer()
    QuantizeCache({0: per_tensor()})(model)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    done = QuantizeCache({0: per_tensor()})(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once
    assert set(done.left.values()) == {"it is quantized already"}


def test_what_it_leaves_it_names() -> None:
    model = layer()
    _, value = model.graph.inputs[2:]
    extra = ir.node("Neg", [value], name="/layer/Neg")
    extra.outputs[0].name = "negative"
    model.graph.append(extra)
    done = QuantizeCache({0: per_tensor(), 7: per_tensor()})(model)
    assert done.names == ["past_key_values.0.key"]
    assert done.left == {
        "past_key_values.0.value": "more happens to it than that new tokens are joined",
        "past_key_values.7.key": "the graph has no such cache",
        "past_key_values.7.value": "the graph has no such cache",
    }
    assert done.notes() == (
        "1 cache stays in float: more happens to it than that new tokens are joined",
        "2 caches stay in float: the graph has no such cache",
    )


def test_a_scale_that_the_type_does_not_hold_is_declined() -> None:
    done = QuantizeCache({0: per_tensor(key=1e-39)})(layer())
    assert done.left == {"past_key_values.0.key": "its scale 1e-39 is too small for FLOAT"}
