"""Say in a recipe which text the numbers of a quantization come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from castline.compiler.recipes.section import Section


class Calibration(Section):
    """The calibration text and how much of it is read."""

    text: str | None = Field(
        default=None,
        description="a text file, a folder, a dataset, or null (the text that ships with Castline)",
    )
    samples: int = Field(default=32, ge=1, description="a whole number from 1")
    length: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="tokens of a sample, a whole number from 1, or null (512, or as many positions "
        "as the model has)",
    )
    seed: int = Field(default=42, ge=0, description="a whole number from 0")
    chat_template: bool = Field(
        default=False, description="true (samples are put into the chat template) or false"
    )
