"""Say what one family of architectures needs beyond the common way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Architectures that export in the same way.

    Add a field here when a second family needs something different; its default keeps the others
    as they are.
    """

    name: str
    model_types: frozenset[str]
    """Values of `model_type` in config.json."""

    ignored_tensors: tuple[str, ...] = ()
    """Endings of checkpoint tensors that are derived from the configuration, so are not bound."""
