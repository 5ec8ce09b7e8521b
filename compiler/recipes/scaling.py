"""Say in a recipe how AWQ protects the weights that matter: scales, ranges, rounding."""

from __future__ import annotations

from pydantic import Field

from castline.compiler.recipes.section import Section
from castline.compiler.recipes.smoothing import SITE_KINDS, SiteKind

# AWQ's authors leave them: an error of either is multiplied by the other.
_QUERY_AND_KEY = ("q_proj", "k_proj", "query", "key", "q_lin", "k_lin", "query_key_value", "Wqkv")


class Scaling(Section):
    """How AWQ searches the scale of each site."""

    steps: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="a whole number from 1 to 1000: exponents tried between 0 (no scale) and 1",
    )
    weight_aware: bool = Field(
        default=False,
        description="true (scales divided by the weights' size are tried, too, as AutoAWQ does) or "
        "false",
    )
    sites: tuple[SiteKind, ...] = Field(
        default=("norm", "value", "up", "relu"),
        strict=False,  # YAML has lists
        description=f"a list of the sites to fold at, of {SITE_KINDS}",
    )
    explicit: bool = Field(
        default=False,
        description="true (where nothing can take a scale up, the graph divides by it in a node of "
        "its own) or false (such sites have no scale)",
    )


class Clipping(Section):
    """How the range of each group of weights is narrowed."""

    shrink: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="a number between 0 and 1: how much of a range may be cut off",
    )
    steps: int = Field(
        default=20,
        ge=2,
        le=1000,
        description="a whole number from 2 to 1000: into how many steps a whole range is divided",
    )
    leave: tuple[str, ...] = Field(
        default=_QUERY_AND_KEY,
        strict=False,  # YAML has lists
        description="a list of names of linears that are not clipped, exact, such as [q_proj, "
        "k_proj]",
    )
