"""Say how far a result may be from its original."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Thresholds:
    """The limits a result must keep; None is no limit.

    `perplexity_ratio`: at most this, the result's perplexity over the original's.
    `kl_divergence`: at most this, mean KL(original || result) in nats a token.
    `top1_agreement`: at least this, the share of tokens whose likeliest successor is the same.
    `logits_cosine`: at least this, the cosine between the logits of both.
    """

    perplexity_ratio: float | None = None
    kl_divergence: float | None = None
    top1_agreement: float | None = None
    logits_cosine: float | None = None

    def __post_init__(self) -> None:
        largest = {"top1_agreement": 1.0, "logits_cosine": 1.0}
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is None:
                continue
            if not 0 <= limit <= largest.get(field.name, math.inf):
                raise ValueError(
                    f"{field.name} is {limit}, expected 0 or more"
                    + (f", at most {largest[field.name]:g}" if field.name in largest else "")
                )
