from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.stored_parts import (
    FLOAT8,
    cache_scales,
    left_in_float,
    module_of,
    positive_number,
    refuse_contradictions,
    require_finite,
    require_float,
    unclaimed_codes,
)
from castline.exporters.readers.tensors import TensorSpec

HALF = np.dtype(np.float16)


def test_a_tensor_belongs_to_the_module_before_the_last_dot():
    assert module_of("model.layers.0.mlp.up_proj.weight_scale") == "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, FLOAT8])
def test_counts_values_that_are_not_finite_by_the_name_of_their_tensor(dtype):
    array = np.array([[1, np.nan], [np.nan, 2]]).astype(dtype)
    with pytest.raises(CheckpointError, match=r"q\.scales holds 2 of 4 values that are NaN or Inf"):
        require_finite("q.scales", array)
    sound = np.array([1, 2]).astype(dtype)
    assert require_finite("q.scales", sound) is sound


def test_wants_scales_in_float():
    require_float("q.scales", TensorSpec((1,), HALF))
    with pytest.raises(CheckpointError, match=r"q\.scales is uint8, expected float16"):
        require_float("q.scales", TensorSpec((1,), np.dtype(np.uint8)))


@pytest.mark.parametrize("value", [0, -1, np.inf, np.nan])
def test_wants_the_scale_of_activations_above_zero(value):
    with pytest.raises(CheckpointError, match=r"q\.input_scale is .*expected a finite scale"):
        positive_number("q.input_scale", np.array([value], np.float32))


def test_takes_the_one_number_of_any_shape():
    assert positive_number("q.input_scale", np.full((1, 1), 0.5, np.float32)) == 0.5


def test_knows_the_scales_of_a_quantized_cache():
    attention = "model.layers.0.self_attn"
    cache = [
        f"{attention}.{end}"
        for end in ("k_scale", "v_scale", "k_zero_point", "k_proj.k_scale", "v_proj.v_bias",
                    "k_proj.output_scale")
    ]  # fmt: skip
    others = [f"{attention}.k_proj.{end}" for end in ("weight_scale", "input_scale", "bias")]
    found = cache_scales(dict.fromkeys([*cache, *others]))
    assert list(found) == cache
    assert all("key-value cache" in reason for reason in found.values())


def test_a_float_weight_is_amiss_where_its_twin_of_another_layer_is_quantized():
    tensors = {
        name: TensorSpec((4, 4), HALF)
        for name in ("model.layers.1.up.weight", "model.layers.2.up.weight", "model.embed.weight")
    }
    quantized = {"model.layers.0.up.weight"}
    problems = left_in_float(tensors, quantized, lambda module: ".2." not in module)
    assert problems == [
        "model.layers.1.up.weight is float16, and the configuration has it quantized, as it is in "
        "other layers"
    ]


def test_codes_without_scales_are_amiss_and_masks_are_not():
    tensors = {
        "q.weight": TensorSpec((4, 4), FLOAT8),
        "k.weight": TensorSpec((4, 4), np.dtype(np.int8)),
        "attn.bias": TensorSpec((1, 1, 4, 4), np.dtype(np.uint8)),
    }
    problems = unclaimed_codes(tensors, {"k.weight"})
    assert len(problems) == 1
    assert problems[0].startswith("q.weight is float8_e4m3fn")


def test_tells_all_contradictions_at_once_and_none_of_none():
    refuse_contradictions("GPTQ", [])
    problems = [f"tensor {nth}" for nth in range(12)]
    with pytest.raises(
        CheckpointError, match=r"GPTQ configuration: tensor 0; .*tensor 9; and 2 mo"
    ):
        refuse_contradictions("GPTQ", problems)
