"""Say what every section of a recipe is: named fields, nothing else, and nothing converted."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe; the description of each field is what an error says was expected."""

    # Strict, because a recipe that says `bits: "4"` or `symmetric: 1` was written by mistake.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
