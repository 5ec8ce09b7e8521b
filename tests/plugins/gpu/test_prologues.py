"""Check that prologues on a GPU write, bit for bit, what they write on the emulator."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from castline.plugins.array_kernels import ArrayKernels
from castline.plugins.binding import Kernels

pytestmark = pytest.mark.gpu

SHAPES = ((1, 64), (3, 144), (5, 4096), (2, 14336))


@pytest.mark.parametrize("data", ["outliers", "zeros", "largest", "tiny"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["W8A8", "W8A8 asymmetric", "W4A8", "W4A4 QLLM"])
def test_codes_are_those_of_the_emulator(
    kernels: Kernels,
    emulated: ArrayKernels,
    device: str,
    scheme: str,
    dtype: torch.dtype,
    data: str,
) -> None:
    from gemm import seeded
    from gemm_problems import SCHEMES, Problem

    made = next(each for each in SCHEMES if each.name == scheme)
    for m, k in SHAPES:
        problem = Problem(made, m, 16, k, dtype, "cpu", data)
        expected = problem.operands(seeded("cpu"))
        found = moved(expected, device)
        problem.prologue(emulated.kernels, expected, 0)
        replace(problem, device=device).prologue(kernels, found, 0)
        for name in ("codes", "scale", "zero_point"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert (ours is None and theirs is None) or torch.equal(ours.cpu(), theirs), (m, k)


def moved(operands: Any, device: str) -> Any:
    """Return a copy of operands on a device."""

    def copy(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(each.clone().to(device) for each in value)
        return None if value is None else value.clone().to(device)

    names = (field.name for field in fields(operands))
    return type(operands)(**{name: copy(getattr(operands, name)) for name in names})
