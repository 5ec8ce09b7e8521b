"""Take the codes of a GGUF file over as they are stored, for the block types that allow it.

A row is cut into blocks of 32 columns, one after the other. A block is, byte by byte,

    Q4_0  | d: float16 |                | 16 bytes of codes |   weight = d * (code - 8)
    Q4_1  | d: float16 | m: float16     | 16 bytes of codes |   weight = d * code + m
    Q8_0  | d: float16 |                | 32 signed codes   |   weight = d * code

and byte j of 16 holds the code of column j in its low half, that of column 16 + j in its high half.

Source: ggml-common.h and ggml-quants.c of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from gguf.constants import GGMLQuantizationType

from castline.exporters.readers.stored import StoredMatrix, StoredScheme
from castline.exporters.readers.stored_parts import require_finite
from castline.exporters.readers.tensors import Array

_BLOCK = 32  # columns that share a scale
_MIDDLE = 8  # what is taken from a code of 0 to 15, to make it signed
_FLOAT = np.dtype("<f2")

SCHEMES: Mapping[GGMLQuantizationType, StoredScheme] = MappingProxyType({
    GGMLQuantizationType.Q4_0: StoredScheme("integer", 4, _BLOCK, symmetric=True),
    GGMLQuantizationType.Q4_1: StoredScheme("integer", 4, _BLOCK, symmetric=True, has_offsets=True),
    GGMLQuantizationType.Q8_0: StoredScheme("integer", 8, _BLOCK, symmetric=True),
})  # fmt: skip

_LINEAR = re.compile(r"(model\.layers\..+|lm_head)\.weight")


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a parameter is the weight [N, K] of a linear, as far as its name tells."""
    return len(shape) == 2 and _LINEAR.fullmatch(name) is not None


def reason_to_unpack(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> str:
    """Return why the codes of a quantized tensor are not taken over."""
    if not is_linear(name, shape):
        return f"{kind.name}, and no linear's weight"
    carried = ", ".join(each.name for each in SCHEMES)
    return f"{kind.name}, which is stored in another way than {carried}"


def matrix_from_blocks(name: str, rows: Array, kind: GGMLQuantizationType) -> StoredMatrix:
    """Return what rows of packed blocks, uint8 [N, bytes], hold of the tensor `name`.

    Scales are float16 as in the file, and may be negative. The offsets of Q4_1 are m + 8 d in
    float32, for its codes are signed here. Raises CheckpointError for scales that are NaN or Inf.
    """
    width = {GGMLQuantizationType.Q4_0: 18, GGMLQuantizationType.Q4_1: 20}.get(kind, 34)
    blocks = rows.reshape(len(rows), -1, width)
    scales = require_finite(f"{name} (scales)", _numbers(blocks, 0))
    if kind == GGMLQuantizationType.Q8_0:
        return StoredMatrix(_as_rows(blocks[..., 2:].view(np.int8)), scales)
    if kind == GGMLQuantizationType.Q4_0:
        return StoredMatrix(_signed_codes(blocks[..., 2:]), scales)
    least = require_finite(f"{name} (minima)", _numbers(blocks, 2))
    offsets = least.astype(np.float32) + _MIDDLE * scales.astype(np.float32)
    return StoredMatrix(_signed_codes(blocks[..., 4:]), scales, offsets=offsets)


def _numbers(blocks: Array, begin: int) -> Array:
    """Return the float16 [N, G] that begins at a byte of every block."""
    return np.ascontiguousarray(blocks[..., begin : begin + 2]).view(_FLOAT)[..., 0]


def _signed_codes(halves: Array) -> Array:
    codes = np.concatenate([halves & 15, halves >> 4], axis=-1).view(np.int8)
    codes -= _MIDDLE
    return _as_rows(codes)


def _as_rows(codes: Array) -> Array:
    return np.ascontiguousarray(codes).reshape(len(codes), -1)
