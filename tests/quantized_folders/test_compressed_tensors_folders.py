"""Compile whole folders in compressed-tensors' format: packed INT4, INT8 and E4M3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.tensorrt import target as tensorrt_rtx

GROUP = 32
BY_TOKEN = {"strategy": "token", "dynamic": True, "symmetric": True, "num_bits": 8}


def configuration(
    layout: str, weights: Mapping[str, Any], inputs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group | {"output_activations": None}},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


CONFIGURATIONS = {
    "packed": configuration(
        "pack-quantized",
        {
            "num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP,
            "symmetric": False,
        },
    ),
    "int8": configuration(
        "int-quantized",
        {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
        BY_TOKEN | {"type": "int"},
    ),
    "float8": configuration(
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
        BY_TOKEN | {"type": "float"},
    ),
}  # fmt: skip


def words(rows: np.ndarray) -> torch.Tensor:
    """Pack codes [R, C] into int32 [R, C / 8], the first one in the lowest half byte."""
    packed = np.zeros((len(rows), rows.shape[1] // 8), np.uint32)
    for column in range(rows.shape[1]):
        packed[:, column // 8] |= rows[:, column].astype(np.uint32) << np.uint32(4 * (column % 8))
    return torch.from_numpy(packed.view(np.int32))


def rounded_by_token(given: torch.Tensor) -> torch.Tensor:
    """Quantize what a linear reads by one scale a token, as vLLM's kernels do.

    What compressed-tensors itself simulates divides by 127.5.
    """
    scale = given.abs().amax(-1, keepdim=True) / 127
    return torch.round(given / scale) * scale


@pytest.fixture
def packs(packed_linear: Any, weight_of: Any) -> dict[str, Callable[..., Any]]:
    def packed(n: int, k: int, random: np.random.Generator) -> Any:
        codes = random.integers(0, 16, (n, k), np.uint8)
        zeros = random.integers(0, 16, (n, k // GROUP), np.uint8)
        scales = random.uniform(0.01, 0.03, zeros.shape).astype(np.float16)
        parts = {
            "weight_packed": words(codes),
            "weight_scale": torch.from_numpy(scales),
            "weight_zero_point": words(zeros.T).T.contiguous(),
            "weight_shape": torch.tensor([n, k]),
        }
        return packed_linear(parts, codes, weight_of(codes, scales, zeros))

    def int8(n: int, k: int, random: np.random.Generator) -> Any:
        codes = random.integers(-128, 128, (n, k), np.int8)
        scales = random.uniform(0.0005, 0.002, (n, 1)).astype(np.float16)
        parts = {"weight": torch.from_numpy(codes), "weight_scale": torch.from_numpy(scales)}
        return packed_linear(parts, codes, weight_of(codes, scales), rounded_by_token)

    def float8(n: int, k: int, random: np.random.Generator) -> Any:
        numbers = torch.from_numpy(random.standard_normal((n, k)) * 100).to(torch.float8_e4m3fn)
        scales = random.uniform(0.0005, 0.002, (n, 1)).astype(np.float16)
        parts = {"weight": numbers, "weight_scale": torch.from_numpy(scales)}
        values = numbers.float().numpy()
        return packed_linear(parts, values, weight_of(values, scales))

    return {"packed": packed, "int8": int8, "float8": float8}


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("form", ["packed", "float8"])
def test_the_graph_computes_what_the_folder_stands_for(
    written: Any, compiled: Any, packs: Any, form: str, target: str
) -> None:
    folder = written(packs[form], CONFIGURATIONS[form])
    found = compiled(folder, target=target)
    found.require(folder, 1e-5)
    if form == "float8":
        assert any("14 linears read float" in note for note in found.outcome.notes)


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
def test_what_linears_read_is_rounded_by_token(
    written: Any, compiled: Any, packs: Any, target: str
) -> None:
    folder = written(packs["int8"], CONFIGURATIONS["int8"])
    compiled(folder, target=target).require(folder, 1e-5)


PARTS = "model.layers.1.mlp.down_proj."


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        (
            "weight_packed",
            lambda t: t[:, :-1].contiguous(),
            "weight has K = 88, which groups of 32",
        ),
        ("weight_scale", lambda t: t * float("inf"), "weight_scale holds 192 of 192 .* NaN or Inf"),
        ("weight_scale", lambda t: t[:, :-1].contiguous(), "weight_packed has .* no K fits"),
        ("weight_zero_point", lambda _: None, "weight_zero_point is absent"),
        ("weight_shape", lambda t: t + 1, r"weight_shape says \[65, 97\]"),
    ],
)
def test_tensors_that_cannot_be_are_named(
    written: Any, refused: Any, packs: Any, part: str, change: Any, words: str
) -> None:
    folder = written(packs["packed"], CONFIGURATIONS["packed"])
    folder.change(PARTS + part, change)
    refused(folder, PARTS + words)


def test_a_zero_point_out_of_range_is_named(written: Any, refused: Any, packs: Any) -> None:
    def unpacked(n: int, k: int, random: np.random.Generator) -> Any:
        packed = packs["packed"](n, k, random)
        return replace(
            packed,
            parts={
                **packed.parts,
                "weight_zero_point": torch.full((n, k // GROUP), 8, dtype=torch.int8),
            },
        )

    folder = written(unpacked, CONFIGURATIONS["packed"])
    refused(folder, r"weight_zero_point holds \d+ of \d+ values out of range, expected -8 to 7")


def test_a_configuration_of_another_width_contradicts_the_codes(
    written: Any, refused: Any, packs: Any
) -> None:
    folder = written(packs["packed"], CONFIGURATIONS["packed"])
    weights = {"num_bits": 8, "type": "int", "strategy": "group", "group_size": GROUP}
    folder.configure(**configuration("pack-quantized", weights))
    refused(folder, "model.layers.0.self_attn.q_proj.weight_packed has 8 words a row")


def test_scales_of_run_time_are_refused_without_plugins_before_an_engine_is_built(
    written: Any, refused: Any, packs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_rtx, "require_builder", lambda *_: None)
    folder = written(packs["int8"], CONFIGURATIONS["int8"])
    words = "has 14 linears that take them at run time"
    refused(folder, words, target="tensorrt-rtx", options=TargetOptions(plugins="never"))


@pytest.mark.tensorrt
@pytest.mark.parametrize("form", ["packed", "float8", "int8"])
def test_an_engine_is_built_with_the_folders_codes(
    written: Any, compiled: Any, packs: Any, form: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    folder = written(packs[form], CONFIGURATIONS[form])
    found = compiled(folder, target="tensorrt-rtx")
    assert (found.outcome.output / "model.engine").is_file()
    assert found.outcome.stored_codes["changed"] == found.outcome.stored_codes["rounded"] == 0
