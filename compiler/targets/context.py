"""Note in a model's file how many tokens it reads, for whoever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    import onnxruntime

_KEY = "castline.context_length"


def note_context(model: ir.Model, context_length: int) -> None:
    """Write the length into the metadata of `model`."""
    model.metadata_props[_KEY] = str(context_length)


def noted_context(session: onnxruntime.InferenceSession) -> int | None:
    """Return the length that a loaded model's metadata says; None for a model of other origin."""
    noted = session.get_modelmeta().custom_metadata_map.get(_KEY)
    return None if noted is None else int(noted)
