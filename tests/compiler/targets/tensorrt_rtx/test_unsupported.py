"""What no engine computes is named, with the nearest that one does."""

from __future__ import annotations

import itertools

import onnx_ir as ir
import pytest

from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.tensorrt_rtx.unsupported import unsupported, unsupported_products

ZERO_POINTS = "{bits: 8, group_size: per-channel, symmetric: false}"


@pytest.mark.parametrize(
    "recipe", ["float", "w4a16-rtn", "w4a16-rtn-sym", "w8a16-rtn", "w8a8-smoothquant-static"]
)
def test_weights_of_four_bits_and_static_scales_are_supported(recipe: str) -> None:
    assert unsupported(load_recipe(recipe, ())) == ()


@pytest.mark.parametrize(
    ("recipe", "granularity"),
    [
        ("w8a8-smoothquant", "per token"),
        ("w8a8-smoothquant-o1", "per token"),
        ("w8a8-smoothquant-o2", "per tensor"),
    ],
)
def test_activation_scales_of_run_time_are_not(recipe: str, granularity: str) -> None:
    (sentence,) = unsupported(load_recipe(recipe, ()))
    assert f"recipe {recipe!r} takes them at run time (INT8, {granularity}, dynamic" in sentence
    assert "Use w8a8-smoothquant-static (static, per tensor), or --set" in sentence


def test_what_it_says_to_set_is_supported() -> None:
    (sentence,) = unsupported(load_recipe("w8a8-smoothquant", ()))
    words = sentence.removesuffix(".").split()
    settings = [word for before, word in itertools.pairwise(words) if before == "--set"]
    assert unsupported(load_recipe("w8a8-smoothquant", settings)) == ()


def test_zero_points_are_not_wherever_they_are() -> None:
    recipe = load_recipe(
        "w8a8-smoothquant-static",
        (f"weights={ZERO_POINTS}", "activations.symmetric=false", f"head={ZERO_POINTS}"),
    )
    (sentence,) = unsupported(recipe)
    assert (
        "has them in weights, activations, head. Use w8a8-smoothquant-static, or --set" in sentence
    )
    assert "--set activations.symmetric=true" in sentence


def test_zero_points_of_four_bits_are_where_a_product_takes_them() -> None:
    four = "{bits: 4, group_size: 32, symmetric: false}"
    assert unsupported(load_recipe("w4a16-rtn", (f"head={four}",))) == ()
    (sentence,) = unsupported(load_recipe("w4a16-rtn", (f"embedding={four}",)))
    assert "zero-points in 4-bit weights of linears alone" in sentence
    assert "has them in embedding. Use w4a16-rtn-sym" in sentence
    (sentence,) = unsupported(load_recipe("w4a16-rtn", (f"embedding={four}", f"head={four}")))
    assert "has them in head, embedding." in sentence


def test_everything_is_said_at_once() -> None:
    recipe = load_recipe("w8a8-smoothquant", ("activations.symmetric=false",))
    assert len(unsupported(recipe)) == 2


def test_what_attention_reads_is_not_quantized() -> None:
    recipe = load_recipe("w8a8-smoothquant-static", ("attention.bits=4",))
    (sentence,) = unsupported(recipe)
    assert "leaves what attention reads in float" in sentence
    assert "Use --set attention=null" in sentence


def test_reassembled_channels_are_not() -> None:
    recipe = load_recipe("w8a8-smoothquant-static", ("reassembly={}",))
    (sentence,) = unsupported(recipe)
    assert "takes channels apart" in sentence
    assert "Use --set reassembly=null" in sentence


@pytest.mark.parametrize("zero_points", ["", "Asymmetric"])
@pytest.mark.parametrize("op", ["LinearW8A8", "LinearW4A8", "LinearW4A4"])
def test_products_by_activation_scales_of_run_time_are_not_either(
    op: str, zero_points: str
) -> None:
    graph = "g (int8[4] x) => (int8[4] y)"
    header = '<ir_version: 10, opset_import: ["" : 23, "castline" : 1]>'
    product = ir.from_onnx_text(f"{header} {graph} {{ y = castline.{op}{zero_points} (x) }}")
    (sentence,) = unsupported_products(product)
    assert "the checkpoint has 1 linears that take them at run time" in sentence
    assert "--target onnxruntime" in sentence
    assert unsupported_products(ir.from_onnx_text(f"{header} {graph} {{ y = Neg (x) }}")) == ()
