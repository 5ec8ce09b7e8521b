"""Say how far a result may be from its original."""

from __future__ import annotations

from pydantic import Field

from castline.compiler.recipes.section import Section


class Thresholds(Section):
    """The limits a result must keep, as the gate of a recipe gives them; None is no limit.

    The first four are for language models, the others for encoders; a model is judged by those of
    its kind.
    """

    perplexity_ratio: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="the largest result / original perplexity, a number above 0",
    )
    kl_divergence: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="the largest mean KL divergence in nats per token, a number from 0",
    )
    top1_agreement: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the smallest share of equal likeliest tokens, a number from 0 to 1",
    )
    logits_cosine: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the smallest cosine similarity of the logits, a number from 0 to 1",
    )
    hidden_cosine: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the smallest mean cosine similarity of a token's vectors, "
        "a number from 0 to 1",
    )
    embedding_cosine: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the smallest mean cosine similarity of a text's mean vectors, "
        "a number from 0 to 1",
    )
    similarity_correlation: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the smallest rank correlation of the similarities between texts, "
        "a number from 0 to 1",
    )
