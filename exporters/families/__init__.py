"""What differs between architectures, and why: one `Family` for each, in an explicit tuple."""

from __future__ import annotations

from castline.errors import UnsupportedArchitectureError
from castline.exporters.families.family import Family
from castline.exporters.families.llama import LLAMA

FAMILIES: tuple[Family, ...] = (LLAMA,)


def family_of(model_type: str) -> Family:
    """Return the family that exports `model_type` (the field of that name in config.json).

    Raises UnsupportedArchitectureError, which lists what is supported, when there is none.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    supported = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
    raise UnsupportedArchitectureError(
        f"config.json: model_type is {model_type!r}, which has no exporter yet. "
        f"Supported: {supported}."
    )


__all__ = ["FAMILIES", "Family", "family_of"]
