"""Check that the kernels' problems are stated as the kernels take them, on the emulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from castline.plugins.binding import Kernels
from castline.plugins.emulation import build_emulated


@pytest.fixture(scope="module")
def kernels(request: pytest.FixtureRequest) -> Kernels:
    cache = request.config.cache
    assert cache is not None
    return Kernels(build_emulated(Path(cache.mkdir("emulated-kernels"))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_scheme_is_right_by_every_tactic(kernels: Kernels, dtype: torch.dtype) -> None:
    from gemm import Case, seeded
    from gemm_problems import SCHEMES, Problem

    for scheme in SCHEMES:
        problem = Problem(scheme, 5, 48, 160, dtype, "cpu")
        weights = problem.weights(seeded("cpu"))
        case = Case(kernels, problem, weights, problem.matrix(weights))
        assert list(case.wrong()) == [], scheme.name


def test_other_weights_than_those_of_the_call_are_wrong(kernels: Kernels) -> None:
    from gemm import Case, seeded
    from gemm_problems import SCHEMES, Problem

    problem = Problem(SCHEMES[0], 5, 48, 160, torch.float16, "cpu")
    weights = problem.weights(seeded("cpu"))
    others = replace(weights, packed=weights.packed ^ 1)
    wrong = list(Case(kernels, problem, others, problem.matrix(weights)).wrong())
    assert wrong[0].startswith("tactic 0: y[")


def test_weights_are_what_the_bytes_stand_for() -> None:
    from gemm import seeded
    from gemm_problems import SCHEMES, Problem

    scheme = next(each for each in SCHEMES if each.name == "W4A8")
    problem = Problem(scheme, 1, 16, 64, torch.float16, "cpu")
    weights = problem.weights(seeded("cpu"))
    assert weights.zero_points is not None
    first = int(weights.packed[0, 0, 0]) & 15  # the low half of the first byte is channel 0's
    expected = (first ^ 8) - 8 - int(weights.zero_points[0])
    assert problem.matrix(weights)[0, 0] == expected
