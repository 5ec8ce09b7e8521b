from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.modelopt import ModelOpt
from castline.exporters.readers.stored import StoredFormat, StoredLinear, StoredMatrix
from castline.exporters.readers.tensors import TensorSpec

Arrays = dict[str, np.ndarray]
FLOAT8 = ml_dtypes.float8_e4m3fn
GENERATOR = np.random.default_rng(0)
ONE = np.array(0.25, np.float32)


def model_opt(algorithm: str, **changes: Any) -> ModelOpt:
    fields = {"quant_algo": algorithm, "exclude_modules": ["lm_head"]} | changes
    return ModelOpt.of({"quantization": fields})


def specs(tensors: Arrays) -> dict[str, TensorSpec]:
    return {name: TensorSpec(array.shape, array.dtype) for name, array in tensors.items()}


def of(module: str, parts: Arrays) -> Arrays:
    return {f"{module}.{part}": array for part, array in parts.items()}


def read(form: StoredFormat, parts: Arrays) -> tuple[StoredLinear, StoredMatrix]:
    tensors = of("up", parts)
    linear = form.linears(specs(tensors))["up.weight"]
    matrix = form.matrix("up.weight", linear, tensors.__getitem__)
    assert matrix.codes.shape == linear.spec.shape
    return linear, matrix


def packed(codes: np.ndarray) -> np.ndarray:
    """Put rows 2 n and 2 n + 1 of signed codes into the low and high halves of bytes."""
    rows, columns = codes.shape
    whole = np.zeros((rows // 2, columns), np.uint8)
    for row in range(rows):
        for column in range(columns):
            code = int(codes[row, column]) % 16
            whole[row // 2, column] |= code << (4 if row % 2 else 0)
    return whole


def scales(*shape: int) -> np.ndarray:
    return GENERATOR.uniform(0.5, 2, shape).astype(np.float32)


def awq(**changes: np.ndarray) -> Arrays:
    codes = GENERATOR.integers(-8, 8, (6, 64), np.int8)
    codes[0, :16] = range(-8, 8)
    codes[1, :16] = range(7, -9, -1)
    return {"weight": packed(codes), "weight_scale": scales(6, 2)} | changes


@pytest.mark.parametrize("with_channels", [True, False])
def test_unpacks_int4_rows_two_to_a_byte(with_channels):
    codes = np.arange(6 * 64).reshape(6, 64) % 16 - 8
    parts = awq(weight=packed(codes))
    channels = scales(64)
    if with_channels:
        parts["pre_quant_scale"] = channels
    linear, matrix = read(model_opt("W4A16_AWQ", group_size=32), parts)
    assert (linear.scheme.bits, linear.scheme.group_size) == (4, 32)
    assert linear.scheme.has_input_scale is with_channels
    assert matrix.codes.dtype == np.int8
    np.testing.assert_array_equal(matrix.codes, codes)
    weight = codes.astype(np.float32) * np.repeat(parts["weight_scale"], 32, axis=1)
    expected = weight * channels if with_channels else weight
    np.testing.assert_array_equal(matrix.weight(), expected)


def test_takes_the_group_size_from_the_scales_where_the_flat_form_states_none():
    form = ModelOpt.of({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "ignore": []})
    assert read(form, awq())[0].scheme.group_size == 32


@pytest.mark.parametrize("algorithm", ["W8A8_SQ_PER_CHANNEL", "INT8_SQ"])
def test_reads_smoothquant_with_the_scale_of_what_is_multiplied(algorithm):
    codes = GENERATOR.integers(-128, 128, (6, 40), np.int8)
    parts = {"weight": codes, "weight_scale": scales(6), "input_scale": ONE}
    linear, matrix = read(model_opt(algorithm), parts | {"pre_quant_scale": scales(40)})
    assert linear.scheme.group_size == "per-channel"
    assert linear.scheme.has_input_scale
    activations = linear.scheme.activations
    assert activations is not None
    assert (activations.kind, activations.per_token, activations.dynamic) == (
        "integer",
        False,
        False,
    )
    assert matrix.activation_scale == 0.25
    assert matrix.scales.shape == (6, 1)
    assert matrix.codes is codes


def test_reads_int8_weights_alone():
    codes = GENERATOR.integers(-128, 128, (6, 40), np.int8)
    scale = scales(6)
    linear, matrix = read(model_opt("W8A16"), {"weight": codes, "weight_scale": scale})
    assert linear.scheme.activations is None
    np.testing.assert_array_equal(matrix.weight(), codes.astype(np.float32) * scale[:, None])


@pytest.mark.parametrize(
    ("shape", "group"),
    [((), "per-tensor"), ((1,), "per-tensor"), ((6,), "per-channel"), ((6, 1), "per-channel")],
)
def test_reads_float8_with_one_scale_or_one_of_each_row(shape, group):
    codes = GENERATOR.standard_normal((6, 40)).astype(FLOAT8)
    parts = {"weight": codes, "weight_scale": scales(*shape), "input_scale": ONE}
    linear, matrix = read(model_opt("FP8"), parts)
    assert (linear.scheme.kind, linear.scheme.group_size) == ("float8", group)
    assert matrix.activation_scale == 0.25
    expected = codes.astype(np.float32) * parts["weight_scale"].reshape(-1, 1)
    np.testing.assert_array_equal(matrix.weight(), expected)


def test_reads_float8_whose_activations_have_scales_at_run_time():
    codes = GENERATOR.standard_normal((6, 40)).astype(FLOAT8)
    parts = {"weight": codes, "weight_scale": scales(6)}
    linear, matrix = read(model_opt("FP8_PER_CHANNEL_PER_TOKEN"), parts)
    assert linear.scheme.activations is not None
    assert (linear.scheme.activations.per_token, linear.scheme.activations.dynamic) == (True, True)
    assert matrix.activation_scale is None


def test_reads_layers_of_a_mixed_model_each_in_its_way():
    layers = {"up": {"quant_algo": "W4A16_AWQ", "group_size": 32}, "down": {"quant_algo": "W8A16"}}
    form = model_opt("MIXED_PRECISION", quantized_layers=layers)
    codes = GENERATOR.integers(-128, 128, (6, 40), np.int8)
    tensors = of("up", awq()) | of("down", {"weight": codes, "weight_scale": scales(6)})
    linears = form.linears(specs(tensors))
    assert {name: linear.scheme.bits for name, linear in linears.items()} == {
        "up.weight": 4,
        "down.weight": 8,
    }
    with pytest.raises(
        CheckpointError, match=r"down is among quantized_layers, and down\.weight_s"
    ):
        form.linears(specs(of("up", awq())))


def test_leaves_the_scales_of_a_quantized_cache_out():
    names = [f"model.layers.0.self_attn.{each}_proj.{each}_scale" for each in "kv"]
    form = model_opt("W4A16_AWQ", kv_cache_quant_algo="FP8")
    tensors = dict.fromkeys(names, ONE) | of("up", awq())
    assert list(form.set_aside(specs(tensors))) == names
    assert list(form.linears(specs(tensors))) == ["up.weight"]


def test_refuses_two_configurations_that_differ():
    first = {"quantization": {"quant_algo": "FP8", "exclude_modules": []}}
    second = {"quant_method": "modelopt", "quant_algo": "W8A16", "ignore": []}
    with pytest.raises(CheckpointError, match="algorithm: FP8 and W8A16"):
        ModelOpt.of(first, second)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"weight": np.zeros((6, 64), np.int8)},
            r"up\.weight is int8 \[6, 64\], expected .* uint8",
        ),
        ({"weight": np.zeros((2, 3, 64), np.uint8)}, r"up\.weight .*expected two dimensions"),
        (
            {"weight_scale": scales(5, 2)},
            r"up\.weight_scale is \[5, 2\], expected \[6, K / group\]",
        ),
        ({"weight_scale": scales(6, 3)}, r"up\.weight_scale is \[6, 3\]"),
        ({"weight_scale": scales(6, 4)}, r"up\.weight_scale is \[6, 4\].*groups of 32"),
        ({"weight_scale": scales(6)}, r"up\.weight_scale is \[6\]"),
        (
            {"weight_scale": np.zeros((6, 2), np.uint8)},
            r"up\.weight_scale is uint8, expected float",
        ),
        ({"pre_quant_scale": scales(32)}, r"up\.pre_quant_scale is \[32\], expected 64"),
        ({"input_scale": ONE}, r"up\.input_scale is stored, which the configuration has no use"),
        ({"weight_scale_2": ONE}, r"up\.weight_scale_2 is stored"),
    ],
)
def test_names_the_tensor_that_contradicts(changes, said):
    form = model_opt("W4A16_AWQ", group_size=32)
    with pytest.raises(CheckpointError, match=rf"ModelOpt configuration: {said}"):
        form.linears(specs(of("up", awq() | changes)))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (of("lm_head", awq()), "lm_head is stored quantized, and the configuration excludes it"),
        ({"down.weight_scale": scales(6)}, r"down\.weight is absent"),
        ({"down.weight": awq()["weight"]}, r"down\.weight is uint8, and no scales of its own"),
    ],
)
def test_names_modules_that_contradict(tensors, said):
    with pytest.raises(CheckpointError, match=said):
        model_opt("W4A16_AWQ").linears(specs(of("up", awq()) | tensors))


def test_names_a_float_weight_whose_twins_are_quantized():
    plain = {"layers.1.up.weight": np.zeros((6, 64), np.float16)}
    tensors = specs(of("layers.0.up", awq()) | plain)
    with pytest.raises(CheckpointError, match=r"layers\.1\.up\.weight is float16, and the config"):
        model_opt("W4A16_AWQ").linears(tensors)
    excluding = model_opt("W4A16_AWQ", exclude_modules=["layers.1.*"])
    assert list(excluding.linears(tensors)) == ["layers.0.up.weight"]


def test_wants_the_scale_of_static_activations():
    parts = {"weight": np.zeros((6, 40), FLOAT8), "weight_scale": scales(1)}
    with pytest.raises(CheckpointError, match=r"up\.input_scale is absent"):
        read(model_opt("FP8"), parts)
    with pytest.raises(CheckpointError, match=r"up\.weight_scale is \[2\], expected \[6\]"):
        read(model_opt("FP8"), parts | {"weight_scale": scales(2), "input_scale": ONE})


@pytest.mark.parametrize(
    ("part", "array", "said"),
    [
        ("weight_scale", np.array([np.inf], np.float32), r"up\.weight_scale holds 1 of 1"),
        ("weight", np.full((6, 40), np.nan, FLOAT8), r"up\.weight holds 240 of 240"),
        ("input_scale", np.array([np.nan], np.float32), r"up\.input_scale is nan, expected"),
    ],
)
def test_names_the_tensor_that_holds_what_cannot_be(part, array, said):
    parts = {"weight": np.zeros((6, 40), FLOAT8), "weight_scale": scales(1), "input_scale": ONE}
    with pytest.raises(CheckpointError, match=said):
        read(model_opt("FP8"), parts | {part: array})
