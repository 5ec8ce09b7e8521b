from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from castline.errors import CheckpointError
from castline.exporters.checkpoint import open_checkpoint
from castline.exporters.export import export
from castline.exporters.readers.autoawq import AutoAwq
from castline.exporters.readers.stored import StoredMatrix, StoredScheme
from castline.exporters.readers.tensors import TensorSpec
from castline.exporters.torch_model import filled_model

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[str, Array]

CONFIG = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 32,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": None,
}
GEMM_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column of a word's eight that each nibble holds, from the lowest nibble on."""


def words_of(rows: list[list[int]], order: tuple[int, ...] = tuple(range(8))) -> Array:
    """Return rows of codes as rows of words, nibble by nibble."""
    packed = []
    for row in rows:
        words = []
        for begin in range(0, len(row), 8):
            word = 0
            for nibble, column in enumerate(order):
                if begin + column < len(row):
                    word |= row[begin + column] << (4 * nibble)
            words.append(word)
        packed.append(words)
    return np.array(packed, np.uint32).view(np.int32)


def gemm(module: str, codes: Array, scales: Array, zeros: Array) -> Tensors:
    """Pack codes [N, K] with scales and zero-points [N, G]."""
    return {
        f"{module}.qweight": words_of(codes.T.tolist(), GEMM_ORDER),
        f"{module}.qzeros": words_of(zeros.T.tolist(), GEMM_ORDER),
        f"{module}.scales": np.ascontiguousarray(scales.T),
    }


def gemv(module: str, codes: Array, scales: Array, zeros: Array, words: int) -> Tensors:
    """Pack as `gemm` does, zero-points and scales padded to so many words."""
    padding = ((0, 0), (0, 8 * words - zeros.shape[1]))
    return {
        f"{module}.qweight": words_of(codes.tolist()),
        f"{module}.qzeros": words_of(np.pad(zeros, padding).tolist()),
        f"{module}.scales": np.pad(scales, padding),
    }


def codes_and_scales(n: int, k: int, group: int) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(n * k)
    scales = random.uniform(0.01, 0.1, (n, k // group)).astype(np.float16)
    return random.integers(0, 16, (n, k)), scales, random.integers(0, 16, (n, k // group))


def specs(tensors: Tensors) -> dict[str, TensorSpec]:
    return {name: TensorSpec(a.shape, a.dtype) for name, a in tensors.items()}


def read_matrix(config: dict[str, Any], tensors: Tensors) -> StoredMatrix:
    stored_format = AutoAwq.of(config)
    linear = stored_format.linears(specs(tensors))["m.weight"]
    return stored_format.matrix("m.weight", linear, tensors.__getitem__)


def test_a_linear_is_listed_as_the_weight_that_it_stands_for() -> None:
    tensors = gemm("m", *codes_and_scales(24, 64, 32)) | {"m.bias": np.zeros(24, np.float16)}
    linears = AutoAwq.of(CONFIG).linears(specs(tensors))
    assert linears.keys() == {"m.weight"}
    assert linears["m.weight"].spec == TensorSpec((24, 64), np.dtype(np.float16))
    assert linears["m.weight"].scheme == StoredScheme("integer", 4, 32, symmetric=False)
    assert set(linears["m.weight"].parts.values()) == tensors.keys() - {"m.bias"}


@pytest.mark.parametrize(("n", "k", "group"), [(8, 32, 32), (24, 96, 32), (40, 160, 32)])
def test_gemm_codes_come_out_as_they_went_in(n: int, k: int, group: int) -> None:
    codes, scales, zeros = codes_and_scales(n, k, group)
    matrix = read_matrix(CONFIG | {"group_size": group}, gemm("m", codes, scales, zeros))
    assert (matrix.codes.dtype, matrix.zero_points.dtype) == (np.uint8, np.uint8)
    np.testing.assert_array_equal(matrix.codes, codes)
    np.testing.assert_array_equal(matrix.zero_points, zeros)
    np.testing.assert_array_equal(matrix.scales, scales)
    expected = (codes[3, k - 1] - zeros[3, -1]) * np.float32(scales[3, -1])
    assert matrix.weight()[3, k - 1] == expected


def test_every_code_at_every_place_of_a_word() -> None:
    codes = (np.arange(16)[:, None] + np.arange(16)) % 16
    scales, zeros = np.ones((16, 1), np.float16), np.arange(16)[:, None]
    config = CONFIG | {"group_size": 16}
    matrix = read_matrix(config, gemm("m", codes, scales, zeros))
    np.testing.assert_array_equal(matrix.codes, codes)
    np.testing.assert_array_equal(matrix.zero_points, zeros)


@pytest.mark.parametrize(
    ("k", "group", "words"), [(128, 128, 1), (2048, 128, 2), (128, 64, 2), (192, 32, 4)]
)
def test_gemv_padding_is_cut_off(k: int, group: int, words: int) -> None:
    codes, scales, zeros = codes_and_scales(5, k, group)
    config = CONFIG | {"version": "GEMV", "group_size": group}
    matrix = read_matrix(config, gemv("m", codes, scales, zeros, words))
    np.testing.assert_array_equal(matrix.codes, codes)
    np.testing.assert_array_equal(matrix.zero_points, zeros)
    np.testing.assert_array_equal(matrix.scales, scales)


def test_one_group_with_all_columns_is_per_channel() -> None:
    codes, scales, zeros = codes_and_scales(8, 48, 48)
    tensors = gemm("m", codes, scales, zeros)
    config = CONFIG | {"group_size": -1}
    assert AutoAwq.of(config).linears(specs(tensors))["m.weight"].scheme.group_size == "per-channel"
    assert read_matrix(config, tensors).scales.shape == (8, 1)


def test_symmetric_codes_are_signed() -> None:
    codes, scales, _ = codes_and_scales(16, 32, 32)
    tensors = gemm("m", codes, scales, np.full((16, 1), 8))
    matrix = read_matrix(CONFIG | {"zero_point": False}, tensors)
    assert matrix.zero_points is None
    assert matrix.codes.dtype == np.int8
    np.testing.assert_array_equal(matrix.codes, codes - 8)


def test_names_of_autoawq_itself_are_read_too() -> None:
    fields = {"w_bit": 4, "q_group_size": 64, "zero_point": True, "version": "GEMM"}
    assert AutoAwq.of(fields) == AutoAwq("gemm", 64, symmetric=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 3}, "bits is 3, expected 4"),
        ({"bits": True}, "bits is True"),
        ({"bits": None}, "bits is None, expected 4"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": "128"}, "group_size is '128'"),
        ({"version": "marlin"}, "version is 'marlin', expected gemm or gemv"),
        ({"version": 2}, "version is 2, expected text"),
        ({"zero_point": "no"}, "zero_point is 'no', expected true or false"),
    ],
)
def test_refuses_a_field_that_cannot_be(change: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        AutoAwq.of(CONFIG | change)


def without(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.pop(name).clip()


def with_shape(name: str, *shape: int) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: np.resize(tensors[name], shape)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("m.qzeros"), r"m\.qzeros is absent"),
        (without("m.scales"), r"m\.scales is absent"),
        (with_shape("m.scales", 2, 16), r"m\.scales is \[2, 16\], expected \[2, 24\] beside m\.qw"),
        (with_shape("m.qzeros", 1, 3), r"m\.qzeros is \[1, 3\], expected \[2, 3\]"),
        (with_shape("m.qweight", 48, 3), r"m\.qweight has K = 48, which groups of 32 do not div"),
        (with_shape("m.qweight", 0, 3), r"m\.qweight has K = 0"),
        (with_shape("m.qweight", 64), r"m\.qweight is int32 \[64\], expected a matrix of int32"),
        (lambda t: t.update({"m.scales": t["m.qzeros"]}), r"m\.scales is int32 \[2, 3\], expected"),
    ],
)
def test_names_the_tensors_that_contradict_the_configuration(
    change: Callable[[Tensors], None], words: str
) -> None:
    tensors = gemm("m", *codes_and_scales(24, 64, 32))
    change(tensors)
    with pytest.raises(CheckpointError, match=rf"contradict their AWQ gemm .*{words}"):
        AutoAwq.of(CONFIG).linears(specs(tensors))


def test_names_the_tensors_of_every_linear_at_once() -> None:
    tensors = gemm("a", *codes_and_scales(8, 32, 32)) | gemm("b", *codes_and_scales(8, 64, 64))
    del tensors["a.scales"]
    with pytest.raises(CheckpointError, match=r"a\.scales is absent; b\.qzeros .*; b\.scales"):
        AutoAwq.of(CONFIG).linears(specs(tensors))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_names_scales_that_are_not_finite(value: float) -> None:
    codes, scales, zeros = codes_and_scales(8, 32, 32)
    scales[2, 0] = value
    with pytest.raises(CheckpointError, match=r"m\.scales holds 1 of 8 values that are NaN or Inf"):
        read_matrix(CONFIG, gemm("m", codes, scales, zeros))


def test_names_zero_points_that_a_symmetric_configuration_denies() -> None:
    codes, scales, _ = codes_and_scales(8, 32, 32)
    zeros = np.array([[8]] * 6 + [[7]] * 2)
    with pytest.raises(CheckpointError, match=r"m\.qzeros holds 2 of 8 zero-points .* not 8"):
        read_matrix(CONFIG | {"zero_point": False}, gemm("m", codes, scales, zeros))


LINEARS = (
    "q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "gate_proj.weight",
    "up_proj.weight", "down_proj.weight",
)  # fmt: skip


def folder_of(sample: Any, folder: Path) -> tuple[dict[str, tuple[Array, ...]], Tensors]:
    """Write the sample with every linear packed; return what was packed, and the float tensors."""
    floats = sample.arrays()
    packed, tensors = {}, {}
    for name in [name for name in floats if name.endswith(LINEARS)]:
        packed[name] = codes_and_scales(*floats.pop(name).shape, 32)
        tensors |= gemm(name.removesuffix(".weight"), *packed[name])
    sample.config.save_pretrained(folder)
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | {"quantization_config": CONFIG}
    path.write_text(json.dumps(fields))
    save_file(tensors | floats, folder / "model.safetensors")
    return packed, floats


def reference(codes: Array, scales: Array, zeros: Array) -> Array:
    """Return the weight [N, K] in float16, as the checkpoint's type is."""
    wide = [np.repeat(each.astype(np.float32), 32, axis=1) for each in (scales, zeros)]
    return ((codes - wide[1]) * wide[0]).astype(np.float16)


class TestWholeModel:
    @pytest.fixture
    def packed(self, sample: Callable[[str], Any], tmp_path: Path) -> Any:
        return folder_of(sample("llama"), tmp_path)

    def test_its_logits_are_those_of_the_dequantized_weights(
        self, packed: Any, sample: Callable[[str], Any], tmp_path: Path
    ) -> None:
        codes, floats = packed
        weights = floats | {name: reference(*each) for name, each in codes.items()}
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.quantized.keys() == codes.keys()
        assert checkpoint.tensors.keys() == weights.keys()
        tokens = torch.arange(12).reshape(1, -1)
        found, expected = (
            filled_model(each, AutoModelForCausalLM, torch.float32)(tokens).logits
            for each in (checkpoint, sample("llama").checkpoint(weights))
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_export_promises_the_dequantized_weights(self, packed: Any, tmp_path: Path) -> None:
        codes, _ = packed
        exported = export(open_checkpoint(tmp_path))
        name = "model.layers.1.mlp.down_proj.weight"
        weight = exported.model.graph.initializers[name].const_value
        assert weight.dtype == ir.DataType.FLOAT
        np.testing.assert_array_equal(weight.numpy().T, reference(*codes[name]))
        assert exported.checkpoint.quantized[name].bits == 4
        np.testing.assert_array_equal(exported.checkpoint.matrix(name).codes, codes[name][0])
