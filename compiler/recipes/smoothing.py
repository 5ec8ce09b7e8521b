"""Say in a recipe how SmoothQuant moves outliers into the weights."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from castline.compiler.recipes.section import Section

SiteKind: TypeAlias = Literal["norm", "value", "up", "relu"]
SITE_KINDS = "norm (norm to its linears), value (v to o), up (up to down), relu (fc1 to fc2)"


class Smoothing(Section):
    """What SmoothQuant may fold, and how strongly."""

    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["search"] = Field(
        default="search",
        description="search, or a number from 0 to 1: how much of the outliers goes into the "
        "weights",
    )
    sites: tuple[SiteKind, ...] = Field(
        default=("norm",),
        strict=False,  # YAML has lists
        description=f"a list of the sites to fold at, of {SITE_KINDS}",
    )
