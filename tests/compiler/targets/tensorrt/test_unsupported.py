"""What no engine computes is named, with the nearest that one does."""

from __future__ import annotations

import itertools

import pytest

from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.tensorrt.unsupported import refused_forms, unsupported

ZERO_POINTS = "{bits: 8, group_size: per-channel, symmetric: false}"
NATIVE = ["float", "w4a16-rtn", "w4a16-rtn-sym", "w8a16-rtn", "w8a8-smoothquant-static"]
OF_PLUGINS = ["w8a8-smoothquant", "w8a8-smoothquant-o1", "w4a8-qllm", "w4a4-qllm", "w6a6-qllm"]


@pytest.mark.parametrize("plugins", [True, False])
@pytest.mark.parametrize("recipe", NATIVE)
def test_weights_of_four_bits_and_static_scales_are_supported(recipe: str, plugins: bool) -> None:
    assert unsupported(load_recipe(recipe, ()), "tensorrt-rtx", plugins=plugins) == ()


@pytest.mark.parametrize("recipe", OF_PLUGINS)
def test_activation_scales_of_run_time_take_plugins(recipe: str) -> None:
    loaded = load_recipe(recipe, ())
    assert unsupported(loaded, "tensorrt-rtx", plugins=True) == ()
    refused = unsupported(loaded, "tensorrt-rtx", plugins=False)
    assert len(refused) == 1 + (loaded.reassembly is not None)
    assert f"recipe {recipe!r} takes them at run time (INT" in refused[0]
    assert "Leave --plugins never out, or use w8a8-smoothquant-static" in refused[0]


def test_one_scale_of_run_time_for_all_is_not_supported() -> None:
    recipe = load_recipe("w8a8-smoothquant-o2", ())
    (sentence,) = unsupported(recipe, "tensorrt-rtx", plugins=True)
    assert "takes one for all (INT8, per tensor, dynamic" in sentence
    assert supported_as_it_says("w8a8-smoothquant-o2", sentence.rpartition(", or")[0], True)
    (sentence,) = unsupported(recipe, "tensorrt-rtx", plugins=False)
    assert "Without plugins (--plugins never)" in sentence


def test_integer_scales_of_groups_need_plugins() -> None:
    recipe = load_recipe("w4a8-smoothquant-groups", ())
    assert unsupported(recipe, "tensorrt-rtx", plugins=True) == ()
    assert unsupported(recipe, "tensorrt-rtx", plugins=False) != ()


def test_what_it_says_to_set_is_supported_without_plugins() -> None:
    (sentence,) = unsupported(load_recipe("w8a8-smoothquant", ()), "tensorrt-rtx", plugins=False)
    assert supported_as_it_says("w8a8-smoothquant", sentence, False)


def supported_as_it_says(recipe: str, sentence: str, plugins: bool) -> bool:
    words = sentence.removesuffix(".").split()
    settings = [word for before, word in itertools.pairwise(words) if before == "--set"]
    assert settings
    return unsupported(load_recipe(recipe, settings), "tensorrt-rtx", plugins=plugins) == ()


def test_zero_points_are_not_wherever_they_are() -> None:
    recipe = load_recipe(
        "w8a8-smoothquant-static",
        (f"weights={ZERO_POINTS}", "activations.symmetric=false", f"head={ZERO_POINTS}"),
    )
    (sentence,) = unsupported(recipe, "tensorrt-rtx", plugins=True)
    assert (
        "has them in weights, activations, head. Use w8a8-smoothquant-static, or --set" in sentence
    )
    assert "--set activations.symmetric=true" in sentence


def test_zero_points_of_activations_are_where_scales_are_of_run_time() -> None:
    recipe = load_recipe("w8a8-smoothquant", ("activations.symmetric=false",))
    assert unsupported(recipe, "tensorrt-rtx", plugins=True) == ()
    eight = load_recipe("w8a8-smoothquant", (f"weights={ZERO_POINTS}",))
    (sentence,) = unsupported(eight, "tensorrt-rtx", plugins=True)
    assert "has them in weights. Use w8a8-smoothquant, or --set weights.symmetric=true." in sentence


def test_zero_points_of_four_bits_are_where_a_product_takes_them() -> None:
    four = "{bits: 4, group_size: 32, symmetric: false}"
    assert (
        unsupported(load_recipe("w4a16-rtn", (f"head={four}",)), "tensorrt-rtx", plugins=True) == ()
    )
    (sentence,) = unsupported(
        load_recipe("w4a16-rtn", (f"embedding={four}",)), "tensorrt-rtx", plugins=True
    )
    assert "zero-points in 4-bit weights of linears and in activations" in sentence
    assert "has them in embedding. Use w4a16-rtn-sym" in sentence
    tied = load_recipe("w4a16-rtn", (f"embedding={four}", f"head={four}"))
    (sentence,) = unsupported(tied, "tensorrt-rtx", plugins=True)
    assert "has them in head, embedding." in sentence


def test_everything_is_said_at_once() -> None:
    recipe = load_recipe("w4a8-qllm", ("attention.bits=4",))
    assert len(unsupported(recipe, "tensorrt-rtx", plugins=False)) == 3


def test_what_attention_reads_is_not_quantized() -> None:
    recipe = load_recipe("w8a8-smoothquant-static", ("attention.bits=4",))
    (sentence,) = unsupported(recipe, "tensorrt-rtx", plugins=True)
    assert "leaves what attention reads in float" in sentence
    assert "Use --set attention=null" in sentence


def test_reassembled_channels_take_plugins() -> None:
    recipe = load_recipe("w8a8-smoothquant-static", ("reassembly={}",))
    assert unsupported(recipe, "tensorrt-rtx", plugins=True) == ()
    (sentence,) = unsupported(recipe, "tensorrt-rtx", plugins=False)
    assert "takes channels apart" in sentence
    assert "use --set reassembly=null" in sentence


def test_codes_in_a_fixed_cache_are_refused_before_anything_is_searched() -> None:
    codes = load_recipe("float", ("kv_cache={bits: 8, granularity: per-tensor}",))
    fixed = TargetOptions(kv_cache="fixed")
    (sentence,) = refused_forms(codes, fixed)
    assert sentence.endswith("Use --kv-cache growing, or --set kv_cache=null.")
    assert refused_forms(codes, TargetOptions()) == ()
    assert refused_forms(load_recipe("float", ()), fixed) == ()
