"""Compile whole folders as GPTQ's tools write them: zero-points less one, and act-order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

GROUP = 32
V1: Mapping[str, Any] = {
    "quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True,
    "checkpoint_format": "gptq",
}  # fmt: skip
V2: Mapping[str, Any] = {
    **V1, "desc_act": True, "sym": False, "checkpoint_format": "gptq_v2",
}  # fmt: skip
CONFIGURATIONS = {"v1, symmetric": V1, "v2, zero-points, act-order": V2}


def words(rows: np.ndarray) -> torch.Tensor:
    """Pack codes [R, C] into int32 [R, C / 8], the first one in the lowest half byte."""
    packed = np.zeros((len(rows), rows.shape[1] // 8), np.uint32)
    for column in range(rows.shape[1]):
        packed[:, column // 8] |= rows[:, column].astype(np.uint32) << np.uint32(4 * (column % 8))
    return torch.from_numpy(packed.view(np.int32))


@pytest.fixture
def pack(packed_linear: Any, weight_of: Any) -> Callable[[Mapping[str, Any]], Any]:
    def as_configured(fields: Mapping[str, Any]) -> Any:
        def symmetric(n: int, k: int, random: np.random.Generator) -> Any:
            codes = random.integers(0, 16, (n, k), np.uint8)
            zeros = np.full((n, k // GROUP), 8, np.uint8)
            scales = random.uniform(0.01, 0.03, zeros.shape).astype(np.float16)
            parts = stored(codes, zeros - 1, scales, np.arange(k) // GROUP)
            return packed_linear(parts, codes.astype(int) - 8, weight_of(codes, scales, zeros))

        def reordered(n: int, k: int, random: np.random.Generator) -> Any:
            codes = random.integers(0, 16, (n, k), np.uint8)
            zeros = random.integers(0, 16, (n, k // GROUP), np.uint8)
            scales = random.uniform(0.01, 0.03, zeros.shape).astype(np.float16)
            groups = random.permutation(np.arange(k) // GROUP)
            members = [[c for c in range(k) if groups[c] == g] for g in range(k // GROUP)]
            order = [column for group in members for column in group]
            weight = np.empty((n, k), np.float32)
            weight[:, order] = weight_of(codes[:, order], scales, zeros)
            return packed_linear(stored(codes, zeros, scales, groups), codes[:, order], weight)

        return reordered if fields["desc_act"] else symmetric

    return as_configured


def stored(
    codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, groups: np.ndarray
) -> dict[str, torch.Tensor]:
    return {
        "qweight": words(codes).T.contiguous(),
        "qzeros": words(zeros.T),
        "scales": torch.from_numpy(scales.T.copy()),
        "g_idx": torch.from_numpy(groups.astype(np.int32)),
    }


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
@pytest.mark.parametrize("form", list(CONFIGURATIONS))
def test_the_graph_computes_what_the_folder_stands_for(
    written: Any, compiled: Any, pack: Any, form: str, target: str
) -> None:
    fields = CONFIGURATIONS[form]
    folder = written(pack(fields), fields)
    compiled(folder, target=target).require(folder, 1e-5)


def test_an_old_folder_is_configured_by_a_file_of_its_own(
    written: Any, compiled: Any, pack: Any
) -> None:
    fields = {name: V1[name] for name in ("bits", "group_size", "desc_act", "sym")}
    folder = written(pack(V1), None, {"quantize_config.json": fields})
    compiled(folder).require(folder, 1e-5)


PARTS = "model.layers.1.mlp.down_proj."


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("g_idx", lambda t: t * 0, "g_idx"),
        ("g_idx", lambda t: t - 1, "g_idx"),
        ("g_idx", lambda t: t + 1, "g_idx"),
        ("g_idx", lambda t: t[:-1].contiguous(), r"g_idx is \[95\], expected \[96\]"),
        ("g_idx", torch.Tensor.float, "g_idx is float32, expected int32"),
        ("g_idx", lambda _: None, "g_idx is absent, and desc_act needs it"),
        ("scales", lambda t: t / 0, "scales holds 192 of 192 values that are NaN or Inf"),
        ("qweight", lambda t: t[:-1].contiguous(), "qweight has K = 88, which groups of 32 do not"),
    ],
)
def test_tensors_that_cannot_be_are_named(
    written: Any, refused: Any, pack: Any, part: str, change: Any, words: str
) -> None:
    folder = written(pack(V2), V2)
    folder.change(PARTS + part, change)
    refused(folder, PARTS + words)


def test_groups_out_of_order_need_a_configuration_that_says_so(
    written: Any, refused: Any, pack: Any
) -> None:
    folder = written(pack(V2), V2 | {"desc_act": False})
    refused(folder, r"_proj.g_idx puts \d+ of \d+ columns into another group than their own")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bits": 8}, r"down_proj.g_idx is \[96\], expected \[48\]"),
        ({"group_size": 7}, "q_proj.qweight has K = 64, which groups of 7 do not divide"),
        ({"sym": False, "desc_act": True, "checkpoint_format": "marlin"}, "is 'marlin', expected"),
        ({"quant_method": "awq"}, "version is 'gptq', expected gemm or gemv"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(
    written: Any, refused: Any, pack: Any, fields: Mapping[str, Any], words: str
) -> None:
    folder = written(pack(V1), V1)
    folder.configure(**fields)
    refused(folder, words)


def test_zero_points_out_of_range_are_named(written: Any, refused: Any, pack: Any) -> None:
    folder = written(pack(V1), V1 | {"sym": False})
    folder.change(f"{PARTS}qzeros", lambda words: torch.full_like(words, -1))
    refused(folder, f"{PARTS}qzeros stores 15 for 192 of 192 zero-points less one. 16 is no code")
