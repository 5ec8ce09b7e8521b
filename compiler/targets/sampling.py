"""Choose the next token from one row of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.errors import CastlineError

Row: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the default is greedy, the likeliest token every time.

    `temperature` divides the logits (0 is greedy); `top_k` keeps the k likeliest tokens; `top_p`
    keeps the fewest tokens that together have that probability; `repetition_penalty` (1 is none)
    makes tokens already seen, prompt included, less likely. The same `seed` draws the same tokens.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {getattr(self, name)}, expected {expected}"
            for name, right, expected in (
                ("temperature", 0 <= self.temperature < np.inf, "0 (greedy) or a positive number"),
                ("top_k", self.top_k is None or self.top_k >= 1, "1 or more"),
                ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
                ("repetition_penalty", 0 < self.repetition_penalty < np.inf, "above 0"),
                ("seed", self.seed is None or self.seed >= 0, "0 or more"),
            )
            if not right
        ]
        if wrong:
            raise CastlineError("Sampling options: " + "; ".join(wrong) + ".")


def next_token(
    logits: Row, sampling: Sampling, seen: NDArray[np.int64], random: np.random.Generator
) -> int:
    """Return the next token for `logits` [V], after the tokens `seen` [any number]."""
    logits = penalized(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    return int(random.choice(logits.size, p=probabilities(logits, sampling)))


def penalized(logits: Row, seen: NDArray[np.int64], penalty: float) -> Row:
    """Return `logits` [V] with the tokens in `seen` made less likely.

    Source: Keskar et al., CTRL, arXiv:1909.05858, section 4.1. Differs, as common runtimes do:
    a negative logit is multiplied, since dividing it would make the token likelier.
    """
    if penalty == 1:
        return logits
    tokens = np.unique(seen)
    result = logits.copy()
    result[tokens] = np.where(
        result[tokens] > 0, result[tokens] / penalty, result[tokens] * penalty
    )
    return result


def probabilities(logits: Row, sampling: Sampling) -> NDArray[np.float64]:
    """Return the probability of each token [V] to be drawn, after temperature, top-k and top-p."""
    order = np.argsort(-logits, kind="stable")
    kept = order[: sampling.top_k]
    scaled = (logits[kept].astype(np.float64) - logits[kept[0]]) / sampling.temperature
    weights = np.exp(scaled)
    weights /= weights.sum()
    # A token stays while those before it have not yet reached top_p, so at least one stays.
    weights[np.cumsum(weights) - weights >= sampling.top_p] = 0
    result = np.zeros(logits.size)
    result[kept] = weights / weights.sum()
    return result
