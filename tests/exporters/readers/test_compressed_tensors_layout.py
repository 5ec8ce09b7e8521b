from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.compressed_tensors_config import read_settings
from castline.exporters.readers.compressed_tensors_layout import Parts, stored_linear
from castline.exporters.readers.stored import StoredLinear
from castline.exporters.readers.stored_parts import FLOAT8
from castline.exporters.readers.tensors import TensorSpec

INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}
I32, I8, HALF = np.dtype(np.int32), np.dtype(np.int8), np.dtype(np.float16)
Shapes = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
PACKED: Shapes = {"weight_packed": (I32, (6, 8)), "weight_scale": (HALF, (6, 2))}


def listed(
    shapes: Shapes, weights: dict[str, Any], form: str = "pack-quantized", **group: Any
) -> StoredLinear:
    tensors = {f"up.{part}": TensorSpec(shape, dtype) for part, (dtype, shape) in shapes.items()}
    groups = {"g": {"targets": ["Linear"], "weights": weights} | group}
    settings = read_settings({"format": form, "config_groups": groups})
    return stored_linear(Parts.of("up", tensors), settings.groups[0])


def test_k_of_packed_codes_follows_from_words_and_groups():
    linear = listed(PACKED, INT4)
    assert linear.spec == TensorSpec((6, 64), HALF)
    assert linear.scheme.group_size == 32
    assert linear.parts == {"weight_packed": "up.weight_packed", "weight_scale": "up.weight_scale"}


def test_groups_with_a_ragged_last_one_become_smaller_ones():
    shapes: Shapes = {"weight_packed": (I32, (6, 72)), "weight_scale": (HALF, (6, 5))}
    linear = listed(shapes, INT4 | {"group_size": 128})
    assert linear.spec.shape == (6, 576)
    assert linear.scheme.group_size == 64


@pytest.mark.parametrize(
    ("words", "k"), [(54, 576), (58, 576), (3, 32), (4, 32)], ids=["straddled", "padded"] * 2
)
def test_k_of_three_bit_codes_is_the_multiple_of_32_that_fills_the_words(words, k):
    shapes: Shapes = {"weight_packed": (I32, (6, words)), "weight_scale": (HALF, (6, 1))}
    linear = listed(shapes, {"num_bits": 3, "type": "int", "strategy": "channel"})
    assert linear.spec.shape == (6, k)


def test_refuses_words_that_are_two_different_k():
    shapes: Shapes = {"weight_packed": (I32, (6, 48)), "weight_scale": (HALF, (6, 1))}
    with pytest.raises(CheckpointError, match=r"up\.weight_packed has 48 words.*K may be 480, 512"):
        listed(shapes, {"num_bits": 3, "type": "int", "strategy": "channel"})


def test_groups_decide_between_two_k():
    shapes: Shapes = {"weight_packed": (I32, (6, 48)), "weight_scale": (HALF, (6, 15))}
    linear = listed(shapes, {"num_bits": 3, "type": "int", "group_size": 32})
    assert linear.spec.shape == (6, 480)


@pytest.mark.parametrize(
    ("strategy", "shape", "expected"),
    [
        ("tensor", (1,), "per-tensor"),
        ("tensor", (), "per-tensor"),
        ("channel", (6, 1), "per-channel"),
        ("channel", (6,), "per-channel"),
    ],
)
def test_reads_float8_weights_with_one_scale_or_one_of_each_row(strategy, shape, expected):
    shapes: Shapes = {"weight": (FLOAT8, (6, 40)), "weight_scale": (HALF, shape)}
    linear = listed(shapes, FP8 | {"strategy": strategy}, "float-quantized")
    assert (linear.scheme.kind, linear.scheme.group_size) == ("float8", expected)
    assert linear.spec.shape == (6, 40)


def test_static_activations_bring_a_scale():
    shapes: Shapes = {
        "weight": (I8, (6, 40)),
        "weight_scale": (HALF, (6, 1)),
        "input_scale": (HALF, (1,)),
    }
    activations = {"num_bits": 8, "type": "int", "strategy": "tensor"}
    linear = listed(shapes, INT8, "int-quantized", input_activations=activations)
    assert linear.scheme.activations is not None
    assert "input_scale" in linear.parts


def test_columns_have_an_order_where_the_configuration_and_the_tensors_say_so():
    ordered = PACKED | {"weight_g_idx": (I32, (64,))}
    assert listed(ordered, INT4 | {"actorder": "group"}).scheme.has_order
    assert not listed(ordered, INT4).scheme.has_order
    assert not listed(PACKED, INT4 | {"actorder": "group"}).scheme.has_order


BAD_PACKED = [
    ({"weight_packed": (I32, (6, 9))}, {}, r"up\.weight_packed has 9 words a row.*no K fits"),
    ({"weight_packed": (I8, (6, 8))}, {}, r"up\.weight_packed is int8 \[6, 8\], expected int32"),
    ({"weight_packed": (I32, (2, 6, 8))}, {}, r"up\.weight_packed .*expected two dimensions"),
    ({"weight_scale": (HALF, (5, 2))}, {}, r"up\.weight_scale is float16 \[5, 2\], expected \[6"),
    ({"weight_scale": (HALF, (6, 3))}, {}, r"up\.weight_packed .*no K fits"),
    ({"weight_scale": (I8, (6, 2))}, {}, r"up\.weight_scale is int8, expected float16"),
    ({"weight_g_idx": (I32, (63,))}, {}, r"up\.weight_g_idx .*expected \[64\]"),
    ({"weight": (HALF, (6, 64))}, {}, r"up\.weight is stored, which the configuration has no use"),
    ({"weight_global_scale": (HALF, (1,))}, {}, r"up\.weight_global_scale is stored"),
    ({"input_scale": (HALF, (1,))}, {}, r"up\.input_scale is stored"),
    ({}, {"symmetric": False}, r"up\.weight_zero_point is absent"),
    (
        {"weight_zero_point": (I32, (2, 2))},
        {"symmetric": False},
        r"up\.weight_zero_point is int32 \[2, 2\], expected \[1, 2\]",
    ),
    (
        {"weight_zero_point": (I8, (6, 1))},
        {"symmetric": False},
        r"up\.weight_zero_point .*expected the shape of the scales, \[6, 2\]",
    ),
    ({}, {"num_bits": 8}, r"up\.weight_packed has 8 words a row: of 8 bits and groups 32"),
    ({}, {"group_size": 20}, r"up\.weight_packed .* groups 20, .*no K fits"),
]  # fmt: skip


@pytest.mark.parametrize(("shapes", "weights", "said"), BAD_PACKED)
def test_names_the_tensor_that_contradicts(shapes, weights, said):
    with pytest.raises(CheckpointError, match=said):
        listed(PACKED | shapes, INT4 | weights)


def test_refuses_a_group_size_that_divides_nothing():
    shapes: Shapes = {"weight": (I8, (6, 40)), "weight_scale": (HALF, (6, 2))}
    stated = INT8 | {"strategy": "group", "group_size": 32}
    with pytest.raises(CheckpointError, match=r"up\.weight has K = 40, which groups of 32 divide"):
        listed(shapes, stated, "int-quantized")


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"weight_scale": (HALF, (6, 1))}, r"up\.weight is absent, though it has scales"),
        (
            {"weight_scale": (HALF, (6, 1)), "weight": (HALF, (6, 40))},
            r"up\.weight is float16, though it has scales",
        ),
        (
            {"weight_scale": (HALF, (6, 1)), "weight": (FLOAT8, (6, 40))},
            r"up stores float8 codes, and its group g is of int8",
        ),
        ({"weight": (I8, (6, 40))}, r"up\.weight_scale is absent"),
    ],
)
def test_refuses_codes_of_another_layout_than_the_format(shapes, said):
    with pytest.raises(CheckpointError, match=said):
        listed(shapes, INT8, "int-quantized")


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({}, r"up\.input_scale, up\.input_zero_point is absent"),
        (
            {"input_scale": (HALF, (40,)), "input_zero_point": (I8, (1,))},
            r"up\.input_scale is float16 \[40\], expected one number",
        ),
    ],
)
def test_refuses_static_activations_without_one_scale(shapes, said):
    activations = {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": False}
    whole: Shapes = {"weight": (I8, (6, 40)), "weight_scale": (HALF, (6, 1))}
    with pytest.raises(CheckpointError, match=said):
        listed(whole | shapes, INT8, "int-quantized", input_activations=activations)
