"""Note in a model's file what whoever runs it needs to know: length, cache, activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    import onnxruntime

_KEY = "castline.context_length"
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


def note_own_cache(model: ir.Model) -> None:
    """Write into the metadata of `model` that its cache is not the original's: scaled, or codes."""
    model.metadata_props[_CACHE] = _OWN


def has_own_cache(session: onnxruntime.InferenceSession) -> bool:
    """Return whether a loaded model's cache is noted not to be the original's."""
    return bool(session.get_modelmeta().custom_metadata_map.get(_CACHE) == _OWN)


def note_float_activations(model: ir.Model) -> None:
    """Write into the metadata of `model` that its runtime multiplies 4-bit weights in float.

    ONNX Runtime, which stands in for that runtime, would round activations to bytes otherwise.
    """
    model.metadata_props[FLOAT_ACTIVATIONS] = "yes"
