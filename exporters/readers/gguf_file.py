"""Read a GGUF file under Hugging Face's names, each tensor dequantized when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.readers import gguf_rope
from castline.exporters.readers.gguf_codes import (
    SCHEMES,
    is_linear,
    matrix_from_blocks,
    reason_to_unpack,
)
from castline.exporters.readers.gguf_config import (
    GgufFamily,
    gguf_config,
    gguf_family,
    model_fields,
    parameter_name,
)
from castline.exporters.readers.gguf_header import GgufHeader, GgufTensor, read_gguf_header
from castline.exporters.readers.mapped import Extent, mapped
from castline.exporters.readers.stored import StoredLinear, StoredMatrix
from castline.exporters.readers.tensors import BFLOAT16, Array, TensorSpec, named

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_PLAIN = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: BFLOAT16,
}
# What the gguf package can unpack. By name, for its older versions do not know all of them.
_PACKED = frozenset([
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4",
    "TQ1_0", "TQ2_0", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL",
    "IQ4_XS",
])  # fmt: skip
_CHUNK = 1 << 18  # elements unpacked together; the steps of unpacking take several times as much


class GgufReader:
    """The tensors of one GGUF file.

    float32, float16 and bfloat16 tensors keep their dtype, the quantized ones become float32. Query
    and key rows that llama.cpp reordered for its rotary kernel come back in Hugging Face's order,
    and norm weights without what it added to them. `stored` names the linears whose codes `matrix`
    hands out as they are; `dequantized` says of each other quantized tensor why there are none.
    """

    def __init__(self, path: Path) -> None:
        """Read the header alone.

        Raises UnsupportedArchitectureError for an architecture or a tensor that has no counterpart,
        CheckpointError for a file that is damaged, split, or holds a tensor type nobody can unpack.
        """
        self.header = read_gguf_header(path)
        self.files = (path,)
        _refuse_parts(self.header)
        self._family = gguf_family(self.header)
        self._fields = model_fields(self.header)
        self._stored = _by_parameter(self.header, self._family)
        self.tensors = {name: self._spec(name) for name in self._stored}
        quantized = {name: each for name, each in self._stored.items() if each.kind not in _PLAIN}
        self.stored = {
            name: StoredLinear(SCHEMES[each.kind], self.tensors[name], {"blocks": each.name})
            for name, each in quantized.items()
            if each.kind in SCHEMES and is_linear(name, each.shape)
        }
        self.dequantized = {
            name: reason_to_unpack(name, each.shape, each.kind)
            for name, each in quantized.items()
            if name not in self.stored
        }

    def read(self, name: str) -> Array:
        """Return the tensor in Hugging Face's order; a quantized one is unpacked to float32."""
        numbers = _unpacked(self._rows(name), self._stored[name])
        if self._family.norm_offset and name.endswith("norm.weight"):
            numbers = numbers - numbers.dtype.type(self._family.norm_offset)
        return numbers

    def matrix(self, name: str) -> StoredMatrix:
        """Return the codes of a linear that `stored` names, its rows in Hugging Face's order.

        Raises CheckpointError when its scales are NaN or Inf.
        """
        tensor = self._stored[name]
        place = f"{self.header.path}: {tensor.name}"
        return matrix_from_blocks(place, self._rows(name), tensor.kind)

    def file_of(self, name: str) -> Path:  # noqa: ARG002 - the protocol's signature
        """Return the file that holds the tensor."""
        return self.header.path

    def config(self) -> PretrainedConfig:
        """Return the model's configuration, without quantization_config: tensors come unpacked.

        Reads the factors of the rotary frequencies, one per pair, where the file holds them.
        """
        factors = next((t for t in self.header.tensors if t.name == gguf_rope.FACTORS), None)
        values = None
        if factors is not None:
            values = _unpacked(_stored_rows(self.header, factors), factors).astype(np.float64)
        rope = gguf_rope.rope_parameters(self.header, self._fields["head_dim"], values)
        return gguf_config(self.header, rope)

    def _rows(self, name: str) -> Array:
        """Return a tensor as it is stored, its rows in Hugging Face's order."""
        rows = _stored_rows(self.header, self._stored[name])
        heads = self._paired_heads(name)
        return _halves_from_pairs(rows, heads) if heads else rows

    def _paired_heads(self, name: str) -> int:
        """Return over how many heads the rows of a tensor are paired, 0 when they are not."""
        if not self._family.paired_rotary:
            return 0
        if ".self_attn.q_proj." in name:
            return int(self._fields["num_attention_heads"])
        return int(self._fields["num_key_value_heads"]) if ".self_attn.k_proj." in name else 0

    def _spec(self, name: str) -> TensorSpec:
        tensor = self._stored[name]
        heads = self._paired_heads(name)
        if heads and tensor.shape[0] % (2 * heads):
            raise CheckpointError(
                f"{self.header.path}: {tensor.name} has {tensor.shape[0]} rows, which "
                f"{heads} heads do not share evenly. Convert the file again."
            )
        return TensorSpec(tensor.shape, _PLAIN.get(tensor.kind, np.dtype(np.float32)))


def _refuse_parts(header: GgufHeader) -> None:
    count = header.metadata.get("split.count", 1)
    if count not in (0, 1):
        raise CheckpointError(
            f"{header.path} is one of {count} parts. Merge them: llama-gguf-split --merge PART OUT."
        )


def _by_parameter(header: GgufHeader, family: GgufFamily) -> dict[str, GgufTensor]:
    """Return the tensors by Hugging Face name; all that have none are refused in one error."""
    stored, unknown, packed = {}, [], []
    for tensor in header.tensors:
        name = parameter_name(tensor.name, family)
        if tensor.kind not in _PLAIN and tensor.kind.name not in _PACKED:
            packed.append(f"{tensor.name} ({tensor.kind.name})")
        if name is not None:
            stored[name] = tensor
        elif tensor.name != gguf_rope.FACTORS:
            unknown.append(tensor.name)
    if unknown:
        raise UnsupportedArchitectureError(
            f"{header.path} holds tensors that its architecture, "
            f"{header.metadata['general.architecture']}, has no place for: {named(unknown)}. "
            "Use the model's Hugging Face folder instead."
        )
    if packed:
        raise CheckpointError(
            f"{header.path} holds tensor types that cannot be unpacked: {named(packed)}. "
            "Use a file with other types, such as Q8_0 or F16."
        )
    return stored


def _stored_rows(header: GgufHeader, tensor: GgufTensor) -> Array:
    """Return the tensor as it is stored: plain numbers, or rows of packed bytes."""
    extent = Extent(header.path, header.file_size, tensor.offset)
    if dtype := _PLAIN.get(tensor.kind):
        return mapped(extent, TensorSpec(tensor.shape, dtype))
    block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
    *outer, width = tensor.shape
    stored = TensorSpec((*outer, width // block * block_bytes), np.dtype(np.uint8))
    return mapped(extent, stored)


def _halves_from_pairs(rows: Array, heads: int) -> Array:
    """Return rows [heads, size / 2, 2, ...] as [heads, 2, size / 2, ...], the shape unchanged.

    A rotary kernel turns two rows of a head together: llama.cpp's converter makes them neighbours,
    Hugging Face keeps them half a head apart. Packed rows stay whole, so they move before they are
    unpacked.
    Source: the inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _unpacked(rows: Array, tensor: GgufTensor) -> Array:
    """Return plain numbers as they are, and packed rows as float32 of the tensor's shape."""
    if tensor.kind in _PLAIN:
        return rows
    packed = rows.reshape(-1, rows.shape[-1])
    numbers = np.empty((len(packed), tensor.shape[-1]), np.float32)
    step = max(1, _CHUNK // tensor.shape[-1])
    for start in range(0, len(packed), step):
        numbers[start : start + step] = dequantize(packed[start : start + step], tensor.kind)
    return numbers.reshape(tensor.shape)
