"""Compile whole folders as NVIDIA ModelOpt exports them: INT4 AWQ, FP8, INT8 SmoothQuant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

GROUP = 32
Form = tuple[str, Callable[..., Any]]


def nested(algorithm: str) -> dict[str, Mapping[str, Any]]:
    """Return hf_quant_config.json as ModelOpt writes it."""
    fields: dict[str, Any] = {
        "quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"],
    }  # fmt: skip
    if algorithm == "W4A16_AWQ":
        fields |= {"group_size": GROUP, "has_zero_point": False, "pre_quant_scale": True}
    producer = {"name": "modelopt", "version": "0.37.0"}
    return {"hf_quant_config.json": {"producer": producer, "quantization": fields}}


@pytest.fixture
def packs(packed_linear: Any, weight_of: Any) -> dict[str, Callable[..., Any]]:
    def awq(n: int, k: int, random: np.random.Generator) -> Any:
        codes = random.integers(-8, 8, (n, k), np.int8)
        scales = random.uniform(0.01, 0.03, (n, k // GROUP)).astype(np.float32)
        factor = random.uniform(0.5, 2, k).astype(np.float16)
        halves = np.zeros((n // 2, k), np.uint8)
        for row in range(n):
            halves[row // 2] |= (codes[row] & 15).astype(np.uint8) << np.uint8(4 * (row % 2))
        parts = {
            "weight": torch.from_numpy(halves),
            "weight_scale": torch.from_numpy(scales),
            "pre_quant_scale": torch.from_numpy(factor),
        }
        weight = weight_of(codes, scales) * factor.astype(np.float32)
        return packed_linear(parts, codes, weight)

    def float8(n: int, k: int, random: np.random.Generator) -> Any:
        numbers = torch.from_numpy(random.standard_normal((n, k)) * 100).to(torch.float8_e4m3fn)
        scale, static = np.float32(random.uniform(0.0005, 0.002)), torch.tensor(0.01)
        parts = {"weight": numbers, "weight_scale": torch.tensor(scale), "input_scale": static}

        def reads(given: torch.Tensor) -> torch.Tensor:
            clamped = torch.clamp(given / static, -448, 448)
            return clamped.to(torch.float8_e4m3fn).float() * static

        values = numbers.float().numpy()
        return packed_linear(parts, values, weight_of(values, np.full((1, 1), scale)), reads)

    def int8(n: int, k: int, random: np.random.Generator) -> Any:
        codes = random.integers(-127, 128, (n, k), np.int8)
        scales = random.uniform(0.0005, 0.002, n).astype(np.float32)
        factor = torch.from_numpy(random.uniform(0.5, 2, k).astype(np.float32))
        static = torch.tensor(0.03)
        parts = {
            "weight": torch.from_numpy(codes),
            "weight_scale": torch.from_numpy(scales),
            "pre_quant_scale": factor,
            "input_scale": static,
        }

        def reads(given: torch.Tensor) -> torch.Tensor:
            return torch.clamp(torch.round(given * factor / static), -128, 127) * static

        return packed_linear(parts, codes, weight_of(codes, scales[:, None]), reads)

    return {"W4A16_AWQ": awq, "FP8": float8, "W8A8_SQ_PER_CHANNEL": int8}


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("algorithm", ["W4A16_AWQ", "FP8", "W8A8_SQ_PER_CHANNEL"])
def test_the_graph_computes_what_the_folder_stands_for(
    written: Any, compiled: Any, packs: Any, algorithm: str, target: str
) -> None:
    folder = written(packs[algorithm], None, nested(algorithm))
    compiled(folder, target=target).require(folder, 1e-5)


PARTS = "model.layers.1.mlp.down_proj."


@pytest.mark.parametrize(
    ("algorithm", "part", "change", "words"),
    [
        ("W4A16_AWQ", "weight", lambda t: t[:-1].contiguous(), r"weight_scale is \[64, 3\], exp"),
        ("W4A16_AWQ", "weight_scale", lambda t: t / 0, "weight_scale holds 192 of 192 values"),
        ("W4A16_AWQ", "weight_scale", lambda _: None, "weight is uint8, and no scales"),
        ("W4A16_AWQ", "pre_quant_scale", lambda t: t[:-1], r"pre_quant_scale is \[95\], expected"),
        ("FP8", "input_scale", lambda t: t / 0, "input_scale is inf, expected a finite scale"),
        ("FP8", "input_scale", lambda _: None, "input_scale is absent"),
        ("W8A8_SQ_PER_CHANNEL", "weight", torch.Tensor.float, "weight is float32"),
        ("W8A8_SQ_PER_CHANNEL", "weight_scale", lambda t: t[:-1], r"weight_scale is \[63\], exp"),
    ],
)
def test_tensors_that_cannot_be_are_named(
    written: Any, refused: Any, packs: Any, algorithm: str, part: str, change: Any, words: str
) -> None:
    folder = written(packs[algorithm], None, nested(algorithm))
    folder.change(PARTS + part, change)
    refused(folder, PARTS + words)


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ("NVFP4", "NVFP4"),
        ("FP8", "q_proj.input_scale is absent"),
        ("W8A16", "q_proj.weight is uint8"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(
    written: Any, refused: Any, packs: Any, algorithm: str, words: str
) -> None:
    refused(written(packs["W4A16_AWQ"], None, nested(algorithm)), words)


def test_two_configurations_that_differ_are_refused(written: Any, refused: Any, packs: Any) -> None:
    flat = {"quant_method": "modelopt", "quant_algo": "W8A16", "ignore": ["lm_head"]}
    folder = written(packs["FP8"], flat, nested("FP8"))
    refused(folder, "config.json describe ModelOpt's quantization differently .algorithm: W8A16")


@pytest.mark.tensorrt
@pytest.mark.parametrize("algorithm", ["W4A16_AWQ", "FP8", "W8A8_SQ_PER_CHANNEL"])
def test_an_engine_takes_float32_scales_in_float32(
    written: Any, compiled: Any, refused: Any, packs: Any, algorithm: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    folder = written(packs[algorithm], None, nested(algorithm))
    refused(folder, "use --dtype float32, or bfloat16", target="tensorrt-rtx")
    found = compiled(folder, target="tensorrt-rtx", dtype="float32")
    assert (found.outcome.output / "model.engine").is_file()
    assert found.outcome.stored_codes["changed"] == found.outcome.stored_codes["rounded"] == 0
