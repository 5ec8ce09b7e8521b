from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from castline.errors import CheckpointError
from castline.exporters.checkpoint import open_checkpoint
from castline.exporters.export import export
from castline.exporters.readers.gptq import Gptq
from castline.exporters.readers.stored import StoredMatrix, StoredScheme
from castline.exporters.readers.tensors import TensorSpec
from castline.exporters.torch_model import filled_model

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[str, Array]

CONFIG = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 32,
    "desc_act": False,
    "sym": False,
    "checkpoint_format": "gptq_v2",
}


def words_of(codes: list[int], bits: int) -> list[int]:
    """Return codes as words, bit by bit: bit b of code i is bit i * bits + b of the stream."""
    words = [0] * (len(codes) * bits // 32)
    for i, code in enumerate(codes):
        for b in range(bits):
            place = i * bits + b
            words[place // 32] |= ((code >> b) & 1) << (place % 32)
    return words


def gptq(
    module: str,
    codes: Array,
    scales: Array,
    zeros: Array,
    *,
    bits: int = 4,
    groups: Array | None = None,
) -> Tensors:
    """Pack codes [N, K] in their own order, with scales and zero-points [N, G] as they are."""
    down = np.array([words_of(row, bits) for row in codes.tolist()], np.uint32)
    along = np.array([words_of(row, bits) for row in zeros.T.tolist()], np.uint32)
    tensors = {
        f"{module}.qweight": np.ascontiguousarray(down.T).view(np.int32),
        f"{module}.qzeros": along.view(np.int32),
        f"{module}.scales": np.ascontiguousarray(scales.T),
    }
    return tensors if groups is None else tensors | {f"{module}.g_idx": groups.astype(np.int32)}


def parts_of(n: int, k: int, groups: int, bits: int = 4) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(n * k)
    scales = random.uniform(0.01, 0.1, (n, groups)).astype(np.float16)
    return (
        random.integers(0, 2**bits, (n, k)),
        scales,
        random.integers(0, 2**bits, (n, groups)),
    )


def specs(tensors: Tensors) -> dict[str, TensorSpec]:
    return {name: TensorSpec(a.shape, a.dtype) for name, a in tensors.items()}


def read_matrix(config: dict[str, Any], tensors: Tensors) -> StoredMatrix:
    stored_format = Gptq.of(config)
    linear = stored_format.linears(specs(tensors))["m.weight"]
    return stored_format.matrix("m.weight", linear, tensors.__getitem__)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_come_out_as_they_went_in(bits: int) -> None:
    codes, scales, zeros = parts_of(32, 96, 3, bits)
    matrix = read_matrix(CONFIG | {"bits": bits}, gptq("m", codes, scales, zeros, bits=bits))
    np.testing.assert_array_equal(matrix.codes, codes)
    np.testing.assert_array_equal(matrix.zero_points, zeros)
    np.testing.assert_array_equal(matrix.scales, scales)
    assert matrix.order is None
    expected = (codes[5, 95] - zeros[5, 2]) * np.float32(scales[5, 2])
    assert matrix.weight()[5, 95] == expected


def test_every_code_at_every_place_of_a_word() -> None:
    codes = (np.arange(16)[:, None] + np.arange(16)) % 16
    zeros = np.arange(16)[:, None]
    config = CONFIG | {"group_size": 16}
    matrix = read_matrix(config, gptq("m", codes, np.ones((16, 1), np.float16), zeros))
    np.testing.assert_array_equal(matrix.codes, codes)
    np.testing.assert_array_equal(matrix.zero_points, zeros)


@pytest.mark.parametrize("layout", ["gptq", None])
def test_zero_points_of_the_first_version_are_stored_less_one(layout: str | None) -> None:
    codes, scales, zeros = parts_of(8, 32, 1)
    zeros = np.maximum(zeros, 1)
    tensors = gptq("m", codes, scales, zeros - 1)
    matrix = read_matrix(CONFIG | {"checkpoint_format": layout}, tensors)
    np.testing.assert_array_equal(matrix.zero_points, zeros)


def test_names_zero_points_that_wrapped_around_in_the_first_version() -> None:
    codes, scales, zeros = parts_of(8, 32, 1)
    zeros[:] = [[15], [15], [14], [3], [0], [7], [8], [9]]
    tensors = gptq("m", codes, scales, zeros)
    with pytest.raises(CheckpointError, match=r"m\.qzeros stores 15 for 2 of 8 .*as gptq_v2"):
        read_matrix(CONFIG | {"checkpoint_format": "gptq"}, tensors)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_codes_are_signed(bits: int) -> None:
    codes, scales, _ = parts_of(32, 32, 1, bits)
    middle = 2 ** (bits - 1)
    tensors = gptq("m", codes, scales, np.full((32, 1), middle - 1), bits=bits)
    config = CONFIG | {"bits": bits, "sym": True, "checkpoint_format": "gptq"}
    matrix = read_matrix(config, tensors)
    assert matrix.zero_points is None
    assert matrix.codes.dtype == np.int8
    np.testing.assert_array_equal(matrix.codes, codes - middle)


def test_names_zero_points_that_a_symmetric_configuration_denies() -> None:
    codes, scales, _ = parts_of(8, 32, 1)
    tensors = gptq("m", codes, scales, np.full((8, 1), 7))
    with pytest.raises(CheckpointError, match=r"m\.qzeros holds 8 of 8 zero-points .* not 8"):
        read_matrix(CONFIG | {"sym": True}, tensors)


class TestOrder:
    def test_columns_are_brought_together_by_group(self) -> None:
        codes, scales, zeros = parts_of(8, 96, 3)
        groups = np.random.default_rng(1).permutation(np.arange(96) // 32)
        config = CONFIG | {"desc_act": True}
        tensors = gptq("m", codes, scales, zeros, groups=groups)
        assert Gptq.of(config).linears(specs(tensors))["m.weight"].scheme.has_order
        matrix = read_matrix(config, tensors)
        np.testing.assert_array_equal(groups[matrix.order], np.arange(96) // 32)
        expected = np.empty((8, 96), np.float32)
        for n in range(8):
            for k in range(96):
                scale, zero = np.float32(scales[n, groups[k]]), zeros[n, groups[k]]
                expected[n, k] = (codes[n, k] - zero) * scale
        np.testing.assert_array_equal(matrix.weight(), expected)

    def test_a_ragged_last_group_is_split_as_the_others_are(self) -> None:
        codes, scales, zeros = parts_of(8, 96, 2)
        groups = np.random.default_rng(2).permutation(np.arange(96) // 64)
        config = CONFIG | {"desc_act": True, "group_size": 64}
        tensors = gptq("m", codes, scales, zeros, groups=groups)
        assert Gptq.of(config).linears(specs(tensors))["m.weight"].scheme.group_size == 32
        matrix = read_matrix(config, tensors)
        np.testing.assert_array_equal(matrix.scales, scales[:, [0, 0, 1]])
        np.testing.assert_array_equal(matrix.zero_points, zeros[:, [0, 0, 1]])
        by_column = (codes - zeros[:, groups]) * scales[:, groups].astype(np.float32)
        np.testing.assert_array_equal(matrix.weight(), by_column.astype(np.float32))

    @pytest.mark.parametrize("change", [{}, {"desc_act": True, "static_groups": True}])
    def test_groups_that_are_neighbours_anyway_need_none(self, change: dict[str, bool]) -> None:
        tensors = gptq("m", *parts_of(8, 64, 2), groups=np.arange(64) // 32)
        assert not Gptq.of(CONFIG | change).linears(specs(tensors))["m.weight"].scheme.has_order
        assert read_matrix(CONFIG | change, tensors).order is None

    def test_one_group_with_all_columns_needs_none(self) -> None:
        config = CONFIG | {"group_size": -1, "desc_act": True}
        tensors = gptq("m", *parts_of(8, 64, 1), groups=np.zeros(64))
        scheme = Gptq.of(config).linears(specs(tensors))["m.weight"].scheme
        assert (scheme.group_size, scheme.has_order) == ("per-channel", False)
        assert read_matrix(config, tensors).order is None

    def test_names_a_g_idx_that_is_no_permutation_into_groups(self) -> None:
        groups = np.arange(64) // 32
        groups[0] = 1
        tensors = gptq("m", *parts_of(8, 64, 2), groups=groups)
        with pytest.raises(CheckpointError, match=r"m\.g_idx is no permutation into groups of 32"):
            read_matrix(CONFIG | {"desc_act": True}, tensors)

    @pytest.mark.parametrize("stranger", [-1, 2])
    def test_names_a_g_idx_with_groups_that_are_not_there(self, stranger: int) -> None:
        groups = np.arange(64) // 32
        groups[5] = stranger
        tensors = gptq("m", *parts_of(8, 64, 2), groups=groups)
        with pytest.raises(CheckpointError, match=r"m\.g_idx names the groups"):
            read_matrix(CONFIG | {"desc_act": True}, tensors)

    def test_names_a_g_idx_that_the_configuration_denies(self) -> None:
        tensors = gptq("m", *parts_of(8, 64, 2), groups=np.arange(64)[::-1] // 32)
        with pytest.raises(CheckpointError, match=r"m\.g_idx puts 64 of 64 columns .*desc_act"):
            read_matrix(CONFIG, tensors)

    def test_names_a_g_idx_that_is_absent(self) -> None:
        tensors = gptq("m", *parts_of(8, 64, 2))
        with pytest.raises(CheckpointError, match=r"m\.g_idx is absent, and desc_act needs it"):
            Gptq.of(CONFIG | {"desc_act": True}).linears(specs(tensors))


class TestDynamic:
    def test_modules_have_their_own_bits_and_groups(self) -> None:
        dynamic = {r"+:.*\.down": {"bits": 8, "group_size": 64}, ".*": {"sym": True}}
        down, up = parts_of(8, 64, 1, 8), parts_of(8, 64, 2)
        tensors = gptq("layers.0.down", *down, bits=8) | gptq("layers.0.up", *up)
        linears = Gptq.of(CONFIG | {"dynamic": dynamic}).linears(specs(tensors))
        assert linears["layers.0.down.weight"].scheme == StoredScheme("integer", 8, 64, False)
        assert linears["layers.0.up.weight"].scheme == StoredScheme("integer", 4, 32, True)

    def test_names_a_module_that_is_quantized_and_left_in_float(self) -> None:
        tensors = gptq("layers.0.up", *parts_of(8, 64, 2))
        stored_format = Gptq.of(CONFIG | {"dynamic": {r"-:.*\.up": {}}})
        with pytest.raises(CheckpointError, match=r"leaves in float .*: layers\.0\.up\.qweight"):
            stored_format.linears(specs(tensors))

    @pytest.mark.parametrize(
        ("dynamic", "words"),
        [
            ({"(": {}}, r"dynamic has '\(', which is no pattern"),
            ({".*": 4}, r"dynamic has 4 for '\.\*', expected a table"),
            ({"+:.*": {"bits": 5}}, r"dynamic, '\+:\.\*': bits is 5, expected 2, 3, 4, 8"),
            (["up"], r"dynamic is \['up'\], expected a table"),
        ],
    )
    def test_refuses_exceptions_that_cannot_be(self, dynamic: object, words: str) -> None:
        with pytest.raises(CheckpointError, match=words):
            Gptq.of(CONFIG | {"dynamic": dynamic})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 6}, "bits is 6, expected 2, 3, 4, 8"),
        ({"group_size": None}, "group_size is None"),
        (
            {"checkpoint_format": "marlin"},
            "checkpoint_format is 'marlin', expected gptq or gptq_v2",
        ),
        ({"is_marlin_format": True}, "checkpoint_format is 'marlin'"),
        ({"pack_dtype": "int64"}, "pack_dtype is 'int64', expected int32"),
        ({"sym": 1}, "sym is 1, expected true or false"),
    ],
)
def test_refuses_a_field_that_cannot_be(change: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        Gptq.of(CONFIG | change)


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        ({"group_size": 24}, {}, r"m\.qweight has K = 64, which groups of 24 do not divide"),
        ({"group_size": 64}, {}, r"m\.qzeros is \[2, 1\], expected \[1, 1\]"),
        ({"bits": 3}, {}, r"m\.qweight is \[8, 8\], which is no whole number of codes of 3 bits"),
        ({"bits": 8}, {}, r"m\.qzeros is \[2, 1\], expected \[1, 2\]"),
        (
            {},
            {"m.scales": np.ones((2, 9), np.float16)},
            r"m\.scales is \[2, 9\], expected \[2, 8\]",
        ),
        (
            {},
            {"m.qweight": np.ones((8, 7), np.int32)},
            r"m\.qweight is \[8, 7\], which is no whole",
        ),
        ({}, {"m.qweight": np.ones((8, 8), np.int64)}, r"m\.qweight is int64 .*matrix of int32"),
        ({}, {"m.g_idx": np.zeros(63, np.int32)}, r"m\.g_idx is \[63\], expected \[64\]"),
        ({}, {"m.g_idx": np.zeros(64, np.float32)}, r"m\.g_idx is float32, expected int32"),
    ],
)
def test_names_the_tensors_that_contradict_the_configuration(
    config: dict[str, Any], change: Tensors, words: str
) -> None:
    tensors = gptq("m", *parts_of(8, 64, 2)) | change
    with pytest.raises(CheckpointError, match=rf"contradict their GPTQ v2 .*{words}"):
        Gptq.of(CONFIG | config).linears(specs(tensors))


def test_names_scales_that_are_not_finite() -> None:
    codes, scales, zeros = parts_of(8, 64, 2)
    scales[1, 1] = np.inf
    with pytest.raises(
        CheckpointError, match=r"m\.scales holds 1 of 16 values that are NaN or Inf"
    ):
        read_matrix(CONFIG, gptq("m", codes, scales, zeros))


LINEARS = (
    "q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "gate_proj.weight",
    "up_proj.weight", "down_proj.weight",
)  # fmt: skip


def test_a_whole_model_in_activation_order_has_the_logits_of_its_dequantized_weights(
    sample: Callable[[str], Any], tmp_path: Path
) -> None:
    floats = sample("llama").arrays()
    weights, tensors = dict(floats), {}
    random = np.random.default_rng(0)
    for name in [name for name in floats if name.endswith(LINEARS)]:
        n, k = floats.pop(name).shape
        codes, scales, zeros = parts_of(n, k, k // 32)
        groups = random.permutation(np.arange(k) // 32)
        tensors |= gptq(name.removesuffix(".weight"), codes, scales, zeros, groups=groups)
        wide = (codes - zeros[:, groups]) * scales[:, groups].astype(np.float32)
        weights[name] = wide.astype(np.float16)
    sample("llama").config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    quantization = CONFIG | {"desc_act": True}
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization})
    )
    save_file(tensors | floats, tmp_path / "model.safetensors")

    checkpoint = open_checkpoint(tmp_path)
    tokens = torch.arange(12).reshape(1, -1)
    found, expected = (
        filled_model(each, AutoModelForCausalLM, torch.float32)(tokens).logits
        for each in (checkpoint, sample("llama").checkpoint(weights))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    exported = export(checkpoint)
    name = "model.layers.2.self_attn.k_proj.weight"
    assert exported.checkpoint.quantized[name].has_order
    written = exported.model.graph.initializers[name].const_value
    np.testing.assert_array_equal(written.numpy().T, weights[name])
