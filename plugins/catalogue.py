"""List the ops that we add to ONNX."""

from __future__ import annotations

from castline.plugins.linear_w4a16.op import LINEAR_W4A16
from castline.plugins.linear_w8a8.op import LINEAR_W8A8, LINEAR_W8A8_ASYMMETRIC
from castline.plugins.op import PluginOp
from castline.plugins.quantize_per_tensor.op import (
    QUANTIZE_PER_TENSOR,
    QUANTIZE_PER_TENSOR_ASYMMETRIC,
)
from castline.plugins.quantize_per_token.op import (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
)

OPS: tuple[PluginOp, ...] = (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
    QUANTIZE_PER_TENSOR,
    QUANTIZE_PER_TENSOR_ASYMMETRIC,
    LINEAR_W8A8,
    LINEAR_W8A8_ASYMMETRIC,
    LINEAR_W4A16,
)
