"""Compile whole folders as AutoAWQ writes them, in its newer layout and its older one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

GROUP = 32
INTERLEAVED = (0, 2, 4, 6, 1, 3, 5, 7)  # the column whose code lies in each half byte of a word
IN_ORDER = tuple(range(8))


def configuration(version: str) -> Mapping[str, Any]:
    return {
        "quant_method": "awq", "bits": 4, "group_size": GROUP, "version": version,
        "zero_point": True, "modules_to_not_convert": None,
    }  # fmt: skip


def words(rows: np.ndarray, places: tuple[int, ...]) -> np.ndarray:
    """Pack codes [R, C] into int32 [R, C / 8], the code at places[i] as the half byte i."""
    packed = np.zeros((len(rows), rows.shape[1] // 8), np.uint32)
    for row in range(len(rows)):
        for word in range(packed.shape[1]):
            for nibble, place in enumerate(places):
                packed[row, word] |= np.uint32(rows[row, 8 * word + place]) << np.uint32(4 * nibble)
    return packed.view(np.int32)


@pytest.fixture
def pack(packed_linear: Any, weight_of: Any) -> Callable[[str], Any]:
    def in_layout(version: str) -> Any:
        def packed(n: int, k: int, random: np.random.Generator) -> Any:
            codes = random.integers(0, 16, (n, k), np.uint8)
            zeros = random.integers(0, 16, (n, k // GROUP), np.uint8)
            scales = random.uniform(0.01, 0.03, zeros.shape).astype(np.float16)
            store = as_gemm if version == "gemm" else as_gemv
            return packed_linear(
                store(codes, zeros, scales), codes, weight_of(codes, scales, zeros)
            )

        return packed

    return in_layout


def as_gemm(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray) -> dict[str, torch.Tensor]:
    return {
        "qweight": torch.from_numpy(words(codes.T, INTERLEAVED)),
        "qzeros": torch.from_numpy(words(zeros.T, INTERLEAVED)),
        "scales": torch.from_numpy(scales.T.copy()),
    }


def as_gemv(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray) -> dict[str, torch.Tensor]:
    width = 8 * 4  # for groups of 32 the words come in fours, here more than enough
    padded = np.zeros((len(zeros), width), np.uint8)
    padded[:, : zeros.shape[1]] = zeros
    wide = np.zeros((len(zeros), width), np.float16)
    wide[:, : zeros.shape[1]] = scales
    return {
        "qweight": torch.from_numpy(words(codes, IN_ORDER)),
        "qzeros": torch.from_numpy(words(padded, IN_ORDER)),
        "scales": torch.from_numpy(wide),
    }


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("version", ["gemm", "gemv"])
def test_the_graph_computes_what_the_folder_stands_for(
    written: Any, compiled: Any, pack: Any, version: str, target: str
) -> None:
    folder = written(pack(version), configuration(version))
    compiled(folder, target=target).require(folder, 1e-5)


PARTS = "model.layers.1.mlp.down_proj."


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        (
            "qweight",
            lambda t: t[:-1].contiguous(),
            "down_proj.qweight has K = 95, which groups of 32 do not",
        ),
        (
            "qweight",
            lambda t: t[:, :-1].contiguous(),
            r"down_proj.qzeros is \[3, 8\], expected \[3, 7\]",
        ),
        (
            "qzeros",
            lambda t: t[:-1].contiguous(),
            r"down_proj.qzeros is \[2, 8\], expected \[3, 8\]",
        ),
        (
            "scales",
            lambda t: t * float("inf"),
            "down_proj.scales holds 192 of 192 values that are NaN or Inf",
        ),
        ("scales", lambda _: None, "down_proj.scales is absent"),
        (
            "qweight",
            lambda _: None,
            r"belong to nothing that it stores: model.layers.1.mlp.down_proj.qzeros",
        ),
    ],
)
def test_tensors_that_cannot_be_are_named(
    written: Any, refused: Any, pack: Any, part: str, change: Any, words: str
) -> None:
    folder = written(pack("gemm"), configuration("gemm"))
    folder.change(PARTS + part, change)
    refused(folder, words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"group_size": 48}, "q_proj.qweight has K = 64, which groups of 48 do not divide"),
        ({"group_size": 64}, r"q_proj.qzeros is \[2, 8\], expected \[1, 8\]"),
        ({"group_size": 0}, "group_size is 0, expected a number of columns"),
        ({"bits": 3}, "bits is 3, expected 4"),
        ({"version": "gemv"}, r"down_proj.qzeros is \[3, 8\], expected \[96, 4\]"),
        (
            {"zero_point": False},
            "qzeros holds .* zero-points that are not 8, and the configuration",
        ),
        ({"quant_method": "gptq"}, r"q_proj.qzeros is \[2, 8\], expected"),
        ({"quant_method": "aqlm"}, "quantized by aqlm, which is not read: .* Use the original"),
        ({"quant_method": "bitsandbytes"}, "quantized by bitsandbytes, which is not read"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(
    written: Any, refused: Any, pack: Any, fields: Mapping[str, Any], words: str
) -> None:
    folder = written(pack("gemm"), configuration("gemm"))
    folder.configure(**fields)
    refused(folder, words)


def test_a_folder_of_two_formats_is_refused(written: Any, refused: Any, pack: Any) -> None:
    other = {"quantization": {"quant_algo": "FP8"}}
    folder = written(pack("gemm"), configuration("gemm"), {"hf_quant_config.json": other})
    refused(folder, r"mixes formats: awq \(config.json\) and modelopt \(hf_quant_config.json\)")


def test_packed_tensors_without_a_configuration_are_refused(
    written: Any, refused: Any, pack: Any
) -> None:
    refused(written(pack("gemm"), None), "k_proj.qweight.* config.json has no quantization_config")


@pytest.mark.tensorrt
def test_an_engine_is_built_with_the_folders_codes(written: Any, compiled: Any, pack: Any) -> None:
    pytest.importorskip("tensorrt_rtx")
    folder = written(pack("gemm"), configuration("gemm"))
    found = compiled(folder, target="tensorrt-rtx")
    assert (found.outcome.output / "model.engine").is_file()
    assert found.outcome.stored_codes["changed"] == found.outcome.stored_codes["rounded"] == 0
    assert "plugins compute 14 PackedLinearW4A16;" in " ".join(found.outcome.notes)
