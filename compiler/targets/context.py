"""Note in a model's file what whoever runs it needs to know: length, cache, activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from castline.errors import OutputError

if TYPE_CHECKING:
    import onnxruntime

    from castline.compiler.targets.growing_view import GrowingView

_KEY = "castline.context_length"
CAPACITY = "castline.cache_capacity"
"""Where the metadata of a file with a fixed cache says how many tokens that is to hold."""
_CACHE = "castline.cache"
_OWN = "own"
FLOAT_ACTIVATIONS = "castline.float_activations"


def note_context(model: ir.Model, context_length: int) -> None:
    """Write the length into the metadata of `model`."""
    model.metadata_props[_KEY] = str(context_length)


def noted_context(session: onnxruntime.InferenceSession) -> int | None:
    """Return the length that a loaded model's metadata says; None for a model of other origin."""
    noted = session.get_modelmeta().custom_metadata_map.get(_KEY)
    return None if noted is None else int(noted)


def note_capacity(model: ir.Model, capacity: int) -> None:
    """Write into the metadata of `model` how many tokens its fixed cache is to hold."""
    model.metadata_props[CAPACITY] = str(capacity)


def context_in(metadata: Mapping[str, str]) -> int:
    """Return the length that the metadata of a file of ours says.

    Raises OutputError where it says none.
    """
    if _KEY not in metadata:
        raise OutputError(
            f"model.onnx does not say how many tokens it reads ({_KEY}): it was not written by "
            "castline compile, or by an older one. Compile the model again."
        )
    return int(metadata[_KEY])


def note_own_cache(model: ir.Model) -> None:
    """Write into the metadata of `model` that its cache is not the original's: scaled, or codes."""
    model.metadata_props[_CACHE] = _OWN


def has_own_cache(session: onnxruntime.InferenceSession | GrowingView) -> bool:
    """Return whether a loaded model's cache is noted not to be the original's."""
    return bool(session.get_modelmeta().custom_metadata_map.get(_CACHE) == _OWN)


def note_float_activations(model: ir.Model) -> None:
    """Write into the metadata of `model` that its runtime multiplies 4-bit weights in float.

    ONNX Runtime, which stands in for that runtime, would round activations to bytes otherwise.
    """
    model.metadata_props[FLOAT_ACTIVATIONS] = "yes"
