"""Say which products `gemm.py` times, and how fast they are to be on an H200.

A goal is a ratio to cuBLAS in float16 at the same shape and number of tokens, in one run. Integer
schemes have their prologue in it.
"""

from __future__ import annotations

from dataclasses import dataclass

# (K, N) of the layers of Llama-2-7B and Llama-3-8B.
SHAPES = (
    (4096, 4096),
    (4096, 12288),
    (4096, 11008),
    (11008, 4096),
    (4096, 14336),
    (14336, 4096),
)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
LARGE_BYTES = 22e6  # of 4-bit codes: below, starting the kernel costs as much as reading them


@dataclass(frozen=True)
class Goal:
    """The ratio to reach from `tokens` on, up to the next goal's; at large layers, or at others."""

    tokens: int
    ratio: float
    small_ratio: float | None = None  # at small layers, where it is another


_IN_GROUPS = 0.9  # of the ratio with a scale per channel

GOALS = {
    "W4A16": (
        Goal(1, 3.0, 2.2),
        Goal(16, 2.8, 2.2),
        Goal(32, 2.4),
        Goal(64, 1.8),
        Goal(128, 1.1),
        Goal(256, 0.95),
        Goal(1024, 0.8),
        Goal(2048, 0.9),
    ),
    "W8A8": (
        Goal(1, 1.65, 1.4),
        Goal(16, 1.6, 1.4),
        Goal(32, 1.6),
        Goal(128, 1.5),
        Goal(256, 1.4),
        Goal(1024, 1.5),
    ),
    "W4A8": (
        Goal(1, 2.9, 2.0),
        Goal(16, 2.8, 2.0),
        Goal(32, 2.6),
        Goal(64, 2.2),
        Goal(128, 1.8),
        Goal(256, 1.4),
        Goal(1024, 1.3),
    ),
    "W4A4 QLLM": (
        Goal(1, 2.7, 1.9),
        Goal(16, 2.6, 1.9),
        Goal(32, 2.4),
        Goal(64, 2.0),
        Goal(128, 1.7),
        Goal(256, 1.3),
        Goal(1024, 1.25),
    ),
}

GOALS["W4A8 groups"] = tuple(
    Goal(
        each.tokens,
        round(_IN_GROUPS * each.ratio, 3),
        None if each.small_ratio is None else round(_IN_GROUPS * each.small_ratio, 3),
    )
    for each in GOALS["W4A8"]
)


def goal(scheme: str, m: int, k: int, n: int) -> float:
    """Return the ratio that a scheme is to reach at m tokens and a layer [n, k]."""
    reached = [each for each in GOALS[scheme] if each.tokens <= m][-1]
    if reached.small_ratio is not None and k * n / 2 < LARGE_BYTES:
        return reached.small_ratio
    return reached.ratio
