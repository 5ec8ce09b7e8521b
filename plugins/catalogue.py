"""List the ops that we add to ONNX."""

from __future__ import annotations

from castline.plugins.linear_w4a4.op import LINEAR_W4A4, LINEAR_W4A4_ASYMMETRIC
from castline.plugins.linear_w4a4.packed import (
    PACKED_LINEAR_W4A4,
    PACKED_LINEAR_W4A4_ASYMMETRIC,
)
from castline.plugins.linear_w4a8.op import (
    LINEAR_W4A8,
    LINEAR_W4A8_ASYMMETRIC,
    LINEAR_W4A8_GROUPS,
    LINEAR_W4A8_GROUPS_ASYMMETRIC,
)
from castline.plugins.linear_w4a8.packed import (
    PACKED_LINEAR_W4A8,
    PACKED_LINEAR_W4A8_ASYMMETRIC,
    PACKED_LINEAR_W4A8_GROUPS,
    PACKED_LINEAR_W4A8_GROUPS_ASYMMETRIC,
)
from castline.plugins.linear_w4a16.op import LINEAR_W4A16
from castline.plugins.linear_w4a16.packed import PACKED_LINEAR_W4A16, PACKED_LINEAR_W4A16_OFFSETS
from castline.plugins.linear_w8a8.op import LINEAR_W8A8, LINEAR_W8A8_ASYMMETRIC
from castline.plugins.linear_w8a8.packed import (
    PACKED_LINEAR_W8A8,
    PACKED_LINEAR_W8A8_ASYMMETRIC,
)
from castline.plugins.op import PluginOp
from castline.plugins.quantize_per_tensor.op import (
    QUANTIZE_PER_TENSOR,
    QUANTIZE_PER_TENSOR_ASYMMETRIC,
)
from castline.plugins.quantize_per_token.op import (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
)
from castline.plugins.reassemble_and_quantize.op import (
    REASSEMBLE_AND_QUANTIZE,
    REASSEMBLE_AND_QUANTIZE_ASYMMETRIC,
)
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

INTEGER_LINEARS: tuple[PluginOp, ...] = (
    LINEAR_W8A8,
    LINEAR_W8A8_ASYMMETRIC,
    LINEAR_W4A8,
    LINEAR_W4A8_ASYMMETRIC,
    LINEAR_W4A8_GROUPS,
    LINEAR_W4A8_GROUPS_ASYMMETRIC,
    LINEAR_W4A4,
    LINEAR_W4A4_ASYMMETRIC,
)
"""Those that multiply codes by codes."""

PACKED: dict[PluginOp, PluginOp] = {
    LINEAR_W8A8: PACKED_LINEAR_W8A8,
    LINEAR_W8A8_ASYMMETRIC: PACKED_LINEAR_W8A8_ASYMMETRIC,
    LINEAR_W4A8: PACKED_LINEAR_W4A8,
    LINEAR_W4A8_ASYMMETRIC: PACKED_LINEAR_W4A8_ASYMMETRIC,
    LINEAR_W4A8_GROUPS: PACKED_LINEAR_W4A8_GROUPS,
    LINEAR_W4A8_GROUPS_ASYMMETRIC: PACKED_LINEAR_W4A8_GROUPS_ASYMMETRIC,
    LINEAR_W4A4: PACKED_LINEAR_W4A4,
    LINEAR_W4A4_ASYMMETRIC: PACKED_LINEAR_W4A4_ASYMMETRIC,
}
"""An op that multiplies codes by codes -> the same with weights in the packed layout."""

PACKED_LINEARS: tuple[PluginOp, ...] = (
    PACKED_LINEAR_W4A16,
    PACKED_LINEAR_W4A16_OFFSETS,
    *PACKED.values(),
)
"""Those whose weights are in the packed layout."""

PLUGINS: tuple[PluginOp, ...] = (
    *PACKED_LINEARS,
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
    REASSEMBLE_CHANNELS,
    REASSEMBLE_AND_QUANTIZE,
    REASSEMBLE_AND_QUANTIZE_ASYMMETRIC,
)
"""Those that libcastline_plugins.so computes inside TensorRT."""

OPS: tuple[PluginOp, ...] = (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
    QUANTIZE_PER_TENSOR,
    QUANTIZE_PER_TENSOR_ASYMMETRIC,
    *INTEGER_LINEARS,
    LINEAR_W4A16,
    REASSEMBLE_CHANNELS,
    REASSEMBLE_AND_QUANTIZE,
    REASSEMBLE_AND_QUANTIZE_ASYMMETRIC,
    *PACKED_LINEARS,
)
