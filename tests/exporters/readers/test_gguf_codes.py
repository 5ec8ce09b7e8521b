from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from castline.errors import CheckpointError
from castline.exporters.readers.gguf_codes import (
    SCHEMES,
    is_linear,
    matrix_from_blocks,
    reason_to_unpack,
)

Kind = gguf.GGMLQuantizationType


def packed(codes: list[int]) -> list[int]:
    """Put 32 codes of 4 bits into 16 bytes: one of the first half below one of the second."""
    return [codes[place] + 16 * codes[16 + place] for place in range(16)]


def half(value: float) -> list[int]:
    return list(np.float16(value).tobytes())


def row(*blocks: list[int]) -> np.ndarray:
    return np.concatenate(blocks).astype(np.uint8)[None]


def test_takes_every_code_of_q4_0_as_one_of_minus_8_to_7():
    codes = [*range(16), *reversed(range(16))]
    blocks = row([*half(-0.5), *packed(codes)], [*half(2), *packed([3] * 32)])
    matrix = matrix_from_blocks("blk.0", blocks, Kind.Q4_0)
    assert matrix.codes.dtype == np.int8
    assert matrix.codes.tolist() == [[code - 8 for code in codes] + [-5] * 32]
    assert matrix.scales.dtype == np.float16
    assert matrix.scales.tolist() == [[-0.5, 2]]
    assert matrix.zero_points is None
    assert matrix.offsets is None


def test_makes_the_minima_of_q4_1_offsets_of_signed_codes():
    codes = [*range(16), *range(16)]
    matrix = matrix_from_blocks("blk.0", row([*half(0.25), *half(-3), *packed(codes)]), Kind.Q4_1)
    assert matrix.codes.tolist() == [[code - 8 for code in codes]]
    assert matrix.offsets is not None
    assert matrix.offsets.dtype == np.float32
    assert matrix.offsets.tolist() == [[-1.0]]  # -3 + 8 * 0.25
    assert matrix.weight().tolist() == [[0.25 * code - 3 for code in codes]]


def test_takes_the_signed_bytes_of_q8_0():
    codes = np.arange(-128, 128, 8, dtype=np.int8)
    blocks = row([*half(0.125), *codes.view(np.uint8).tolist()])
    matrix = matrix_from_blocks("blk.0", blocks, Kind.Q8_0)
    np.testing.assert_array_equal(matrix.codes[0], codes)
    np.testing.assert_array_equal(matrix.weight()[0], codes * 0.125)


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0])
def test_stands_for_the_weights_that_the_gguf_package_unpacks(kind):
    rows = quantize(np.random.default_rng(0).standard_normal((5, 96), np.float32), kind)
    matrix = matrix_from_blocks("blk.0", rows, kind)
    np.testing.assert_array_equal(matrix.weight(), dequantize(rows, kind))
    assert matrix.codes.shape == (5, 96)
    assert matrix.scales.shape == (5, 96 // int(SCHEMES[kind].group_size))


def test_stands_for_the_weights_of_q4_1_to_the_rounding_of_float32():
    rows = quantize(np.random.default_rng(0).standard_normal((5, 96), np.float32), Kind.Q4_1)
    weight = dequantize(rows, Kind.Q4_1)
    bound = 4 * np.finfo(np.float32).eps * np.abs(weight).max()
    np.testing.assert_allclose(
        matrix_from_blocks("blk.0", rows, Kind.Q4_1).weight(), weight, rtol=0, atol=bound
    )


@pytest.mark.parametrize(
    ("kind", "numbers", "what"),
    [(Kind.Q4_0, [np.inf], "scales"), (Kind.Q4_1, [1, np.nan], "minima")],
)
def test_names_the_tensor_whose_scales_are_not_finite(kind, numbers, what):
    blocks = row(*map(half, numbers), packed([0] * 32))
    with pytest.raises(CheckpointError, match=rf"blk\.0 \({what}\) holds 1 of 1 values"):
        matrix_from_blocks("blk.0", blocks, kind)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", (4, 32), True),
        ("lm_head.weight", (4, 32), True),
        ("model.embed_tokens.weight", (4, 32), False),
        ("model.layers.0.mlp.up_proj.bias", (32,), False),
        ("model.layers.0.input_layernorm.weight", (32,), False),
    ],
)
def test_linears_are_the_matrices_of_layers_and_the_head(name, shape, expected):
    assert is_linear(name, shape) is expected


def test_says_why_codes_are_not_taken_over():
    linear = "model.layers.0.mlp.up_proj.weight"
    assert "Q4_K, which is stored in another way" in reason_to_unpack(linear, (4, 256), Kind.Q4_K)
    embedding = reason_to_unpack("model.embed_tokens.weight", (4, 32), Kind.Q8_0)
    assert embedding == "Q8_0, and no linear's weight"
