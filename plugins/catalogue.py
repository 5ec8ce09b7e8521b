"""List the ops that we add to ONNX."""

from __future__ import annotations

from castline.plugins.linear_w4a4.op import LINEAR_W4A4, LINEAR_W4A4_ASYMMETRIC
from castline.plugins.linear_w4a8.op import LINEAR_W4A8, LINEAR_W4A8_ASYMMETRIC
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
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

INTEGER_LINEARS: tuple[PluginOp, ...] = (
    LINEAR_W8A8,
    LINEAR_W8A8_ASYMMETRIC,
    LINEAR_W4A8,
    LINEAR_W4A8_ASYMMETRIC,
    LINEAR_W4A4,
    LINEAR_W4A4_ASYMMETRIC,
)
"""Those that multiply codes by codes."""

OPS: tuple[PluginOp, ...] = (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
    QUANTIZE_PER_TENSOR,
    QUANTIZE_PER_TENSOR_ASYMMETRIC,
    *INTEGER_LINEARS,
    LINEAR_W4A16,
    REASSEMBLE_CHANNELS,
)
