"""What plugins are needed for is known from the recipe, and what they cannot from the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.tensorrt.plugin_needs import (
    misfits,
    run_time_need,
    unread,
    zero_points_need,
)
from castline.plugins.quantize_per_token.op import QUANTIZE_PER_TOKEN

HALF = ir.DataType.FLOAT16
RUN_TIME = "activation scales taken at run time"
CHANNELS = "channels taken apart and put together"


@pytest.mark.parametrize(
    ("recipe", "settings", "zero_points", "run_time"),
    [
        ("float", (), None, None),
        ("w4a16-rtn-sym", (), None, None),
        ("w8a16-rtn", (), None, None),
        ("w8a8-smoothquant-static", (), None, None),
        ("w4a16-rtn", (), "zero-points in weights", None),
        (
            "w4a16-rtn",
            ("head={bits: 4, group_size: 32, symmetric: false}",),
            "zero-points in weights and head",
            None,
        ),
        ("w8a8-smoothquant", (), None, RUN_TIME),
        ("w4a8-qllm", (), "zero-points in weights", f"{RUN_TIME} and {CHANNELS}"),
    ],
)
def test_needs_are_those_of_the_recipe(
    recipe: str, settings: tuple[str, ...], zero_points: str | None, run_time: str | None
) -> None:
    loaded = load_recipe(recipe, settings)
    assert zero_points_need(loaded) == zero_points
    assert run_time_need(loaded) == run_time


@pytest.mark.parametrize("recipe", ["w4a16-rtn", "w8a8-smoothquant", "w4a8-qllm", "w4a4-qllm"])
def test_every_linear_of_usual_sizes_fits(sample: Callable[[str], Any], recipe: str) -> None:
    assert misfits(sample("llama").graph(HALF), load_recipe(recipe, ())) == ()


@pytest.mark.parametrize("recipe", ["w4a16-rtn", "w8a8-smoothquant", "w4a8-qllm"])
def test_float32_is_told_of_every_linear_of_the_layers(
    sample: Callable[[str], Any], recipe: str
) -> None:
    found = misfits(sample("llama").graph(), load_recipe(recipe, ()))
    assert len(found) == 7 * 3
    assert {finding.reason for finding in found} == {
        "it computes in float, and plugins in float16 and bfloat16; use --dtype float16"
    }
    assert "lm_head.weight" not in {finding.node for finding in found}


def test_quantized_activations_of_weights_in_groups_are_16_bit_too(
    sample: Callable[[str], Any],
) -> None:
    groups = ("weights={bits: 8, group_size: 32, symmetric: true}",)
    recipe = load_recipe("w8a8-smoothquant", groups)
    assert misfits(sample("llama").graph(HALF), recipe) == ()
    (reason,) = {finding.reason for finding in misfits(sample("llama").graph(), recipe)}
    assert reason == "plugins read float16 and bfloat16; use --dtype float16"


def test_small_groups_and_what_is_kept(sample: Callable[[str], Any]) -> None:
    groups = "weights={bits: 4, group_size: 16, symmetric: false}"
    recipe = load_recipe("w4a16-rtn", (groups, "keep=['*.mlp.*']"))
    found = misfits(sample("llama").graph(HALF), recipe)
    assert len(found) == 4 * 3
    assert (
        found[0].reason
        == "it has groups of 16, and plugins take 32, 64, 128 and so on, or a whole channel"
    )
    assert not any("mlp" in finding.node for finding in found)


def test_an_op_without_a_plugin_is_named() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23, "castline" : 1]>
        g (float16[A, 64] x) => (int8[A, 64] codes, float scale)
        { codes, scale = castline.QuantizePerTensor <bits = 8> (x) }
    """)
    (finding,) = unread(model)
    assert (finding.operator, finding.reason) == ("QuantizePerTensor", "no plugin computes it")


@pytest.mark.parametrize(
    ("kind", "shape", "reason"),
    [
        ("float16", "A, B, 64", None),
        ("float", "A, B, 64", "plugins read float16 and bfloat16; use --dtype float16"),
        (
            "float16",
            "A, 53248",
            "tokens of 53248 channels are quantized at run time, and plugins take 32768",
        ),
        ("float16", "A, B, C, 64", "what it reads has 4 axes, and plugins read 2 or 3"),
    ],
)
def test_what_a_plugin_would_not_read_is_named(kind: str, shape: str, reason: str | None) -> None:
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23, "castline" : 1]>
        g ({kind}[{shape}] x) => (int8[{shape}] codes, float[{shape}] scale)
        {{ codes, scale = castline.QuantizePerToken <bits = 8> (x) }}
    """)
    QUANTIZE_PER_TOKEN.define_in(model)
    found = [finding.reason for finding in unread(model)]
    assert found == ([] if reason is None else [reason])


def test_more_channels_than_a_block_holds_are_named() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23, "castline" : 1]>
        g (float16[A, 16] x, int32[16] gather, float[16] scale, int32[32] place,
           int32[32] channel, float[32] channel_scale) => (float16[A, 16] y)
        { y = castline.ReassembleChannels (x, gather, scale, place, channel, channel_scale) }
    """)
    (finding,) = unread(model)
    assert finding.reason.startswith("32 channels are added to 16")
