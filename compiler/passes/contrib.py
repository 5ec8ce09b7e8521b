"""Use the operators that ONNX Runtime adds to ONNX."""

from __future__ import annotations

import onnx_ir as ir

DOMAIN = "com.microsoft"


def import_contrib(model: ir.Model) -> None:
    """Let `model` use operators of that domain; a version that it imports already stays."""
    model.graph.opset_imports.setdefault(DOMAIN, 1)
