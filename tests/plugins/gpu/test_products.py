"""Check the products on a GPU against float64, by every tactic, at what can break."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from castline.plugins.binding import Kernels

pytestmark = pytest.mark.gpu

SCHEMES = ("W4A16", "W4A16 offsets", "W8A8", "W8A8 asymmetric", "W4A8", "W4A8 groups", "W4A4 QLLM")
TYPES = (torch.float16, torch.bfloat16)
# Around the edges of tiles of tokens, and where another kernel begins.
TOKENS = (
    *(1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65),
    *(127, 128, 129, 256, 257, 1000, 4096),
)
# (K, N): one block, an odd number of strips, K that no block fits; then layers of language models.
SMALL = ((64, 16), (128, 48), (144, 40), (4096, 1024))
LAYERS = (
    *((2048, 2048), (4096, 4096), (4096, 12288), (4096, 11008), (11008, 4096)),
    *((4096, 14336), (14336, 4096), (5120, 13824), (8192, 8192)),
)
FEW_TOKENS = (1, 8, 16, 17, 128, 257, 1000)
GROUPS = (32, 64, 128, 0)


def problem_of(scheme: str, k: int, n: int, dtype: torch.dtype, device: str) -> Any:
    from gemm_problems import SCHEMES as ALL
    from gemm_problems import Problem

    return Problem(next(each for each in ALL if each.name == scheme), 1, n, k, dtype, device)


def wrong_at(kernels: Kernels, problem: Any, tokens: tuple[int, ...]) -> list[str]:
    from gemm import Case, seeded

    weights = problem.weights(seeded(problem.device))
    matrix = problem.matrix(weights)
    return [
        f"m {m}: {each}"
        for m in tokens
        for each in Case(kernels, replace(problem, m=m), weights, matrix).wrong()
    ]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_number_of_tokens(
    kernels: Kernels, device: str, scheme: str, dtype: torch.dtype
) -> None:
    for k, n in SMALL:
        problem = problem_of(scheme, k, n, dtype, device)
        assert wrong_at(kernels, problem, TOKENS) == [], (k, n)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("k", "n"), LAYERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_layer(
    kernels: Kernels, device: str, scheme: str, k: int, n: int, dtype: torch.dtype
) -> None:
    problem = problem_of(scheme, k, n, dtype, device)
    assert wrong_at(kernels, problem, FEW_TOKENS) == []


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("scheme", SCHEMES[:2])
def test_every_size_of_groups(kernels: Kernels, device: str, scheme: str, group: int) -> None:
    problem = problem_of(scheme, 4096, 1024, torch.float16, device)
    grouped = replace(problem.scheme, group=group or problem.k)
    assert wrong_at(kernels, replace(problem, scheme=grouped), FEW_TOKENS) == []


@pytest.mark.parametrize("data", ["plain", "zeros", "largest", "tiny"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_unusual_values(kernels: Kernels, device: str, scheme: str, data: str) -> None:
    problem = problem_of(scheme, 1024, 256, torch.bfloat16, device)
    assert wrong_at(kernels, replace(problem, data=data), FEW_TOKENS) == []


@pytest.mark.parametrize("m", [1, 16, 128, 257])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_input_has_the_same_output(
    kernels: Kernels, device: str, scheme: str, m: int
) -> None:
    from gemm import Case, seeded

    problem = replace(problem_of(scheme, 14336, 512, torch.float16, device), m=m)
    weights = problem.weights(seeded(device))
    case = Case(kernels, problem, weights, problem.matrix(weights))
    run = problem.call(kernels, weights, case.operands)
    for tactic, (scratch, (_, tickets)) in case.scratch.items():
        run(tactic, scratch)
        first = case.operands.y.clone()
        for _ in range(20):
            run(tactic, scratch)
            assert torch.equal(case.operands.y, first), tactic
        assert not tickets.any(), "tickets must be left zero"


@pytest.mark.parametrize("m", [1, 64, 512])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_captured_graph_computes_the_same(
    kernels: Kernels, device: str, scheme: str, m: int
) -> None:
    from gemm import Case, seeded
    from gemm_timing import captured

    problem = replace(problem_of(scheme, 4096, 1024, torch.float16, device), m=m)
    weights = problem.weights(seeded(device))
    case = Case(kernels, problem, weights, problem.matrix(weights))
    calls = case.calls([weights], 0, prologue=True)
    calls[0](torch.cuda.current_stream().cuda_stream)
    expected = case.operands.y.clone()
    graph, _ = captured(calls)
    case.operands.y.fill_(torch.nan)
    graph.replay()
    assert torch.equal(case.operands.y, expected)
