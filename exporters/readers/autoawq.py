"""Read linears as AutoAWQ stores them: 4-bit codes, eight of them in a word.

gemm, which nearly every checkpoint has, keeps [K, N] and packs along N, its codes interleaved:

    qweight  int32 [K, N / 8]      | 7 | 5 | 3 | 1 | 6 | 4 | 2 | 0 |   column of a word's 8,
    qzeros   int32 [K / g, N / 8]  the same                            highest bits first
    scales   float [K / g, N]

gemv, the older one, keeps [N, K] and packs along K in order. Its rows of zero-points are padded to
whole words, and to 2 words for groups of 64, 4 for groups of 32; the scales are padded as wide:

    qweight  int32 [N, K / 8]      | 7 | 6 | 5 | 4 | 3 | 2 | 1 | 0 |
    qzeros   int32 [N, Z]          Z = K / g / 8, rounded up as said
    scales   float [N, 8 * Z]

Source: WQLinear_GEMM and WQLinear_GEMV of AutoAWQ 0.2.9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.integer_words import (
    Parts,
    integer_matrix,
    misshapen,
    modules_with_codes,
)
from castline.exporters.readers.packed_words import unpacked
from castline.exporters.readers.quantization_fields import PER_CHANNEL, QuantizationFields
from castline.exporters.readers.stored import Read, StoredLinear, StoredMatrix, StoredScheme
from castline.exporters.readers.stored_parts import refuse_contradictions
from castline.exporters.readers.tensors import Array, TensorSpec

Layout: TypeAlias = Literal["gemm", "gemv"]

_BITS = 4
_PER_WORD = 8
_PARTS = ("qweight", "qzeros", "scales")
_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # in a word of gemm, where column 0, 1, ... lies


@dataclass(frozen=True)
class AutoAwq:
    """The linears of a checkpoint by AutoAWQ, as its configuration describes them."""

    layout: Layout
    group_size: int
    """Columns that share a scale, or PER_CHANNEL."""
    symmetric: bool

    @property
    def name(self) -> str:
        """What its users call it."""
        return f"AWQ {self.layout}"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> AutoAwq:
        """Return the format that a quantization_config describes.

        Raises CheckpointError for a field that cannot be, and for layouts that are not read.
        """
        fields = QuantizationFields(values)
        fields.integer(("bits", "w_bit"), (_BITS,))
        layout = fields.word(("version", "checkpoint_format", "format"), "gemm")
        if layout not in ("gemm", "gemv"):
            raise CheckpointError(
                f"version is {layout!r}, expected gemm or gemv: the others are arranged for the "
                "kernels of one GPU. Get the checkpoint as gemm"
            )
        return cls(
            "gemm" if layout == "gemm" else "gemv",
            fields.group_size(("group_size", "q_group_size")),
            symmetric=not fields.flag("zero_point", default=True),
        )

    def linears(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, StoredLinear]:
        """Return what is quantized among the stored tensors.

        Raises one CheckpointError for all tensors that contradict the configuration.
        """
        found: dict[str, StoredLinear] = {}
        problems: list[str] = []
        for module, parts in modules_with_codes(tensors, _PARTS, problems):
            wrong = self._problems(parts, tensors)
            problems.extend(wrong)
            if not wrong:
                found[f"{module}.weight"] = self._linear(parts, tensors)
        refuse_contradictions(self.name, problems)
        return found

    def set_aside(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, str]:  # noqa: ARG002
        """Return what is left out: nothing."""
        return {}

    def matrix(self, name: str, linear: StoredLinear, read: Read) -> StoredMatrix:  # noqa: ARG002
        """Return one linear's codes; CheckpointError for scales or zero-points that cannot be."""
        parts = linear.parts
        codes, zeros = (self._rows(read(parts[part])) for part in ("qweight", "qzeros"))
        scales = read(parts["scales"])
        if self.layout == "gemm":
            scales = np.ascontiguousarray(scales.T)
        groups = linear.spec.shape[1] // self._group(linear.spec.shape[1])
        scales, zeros = (np.ascontiguousarray(each[:, :groups]) for each in (scales, zeros))
        return integer_matrix(parts, codes, scales, zeros, bits=_BITS, symmetric=self.symmetric)

    def _rows(self, words: Array) -> Array:
        """Return the codes [N, ...] of a matrix of words."""
        rows, width = words.shape
        codes = unpacked(words, _BITS, width * _PER_WORD, straddled=False)
        if self.layout == "gemv":
            return codes
        ordered = codes.reshape(rows, width, _PER_WORD)[:, :, _PLACES]
        return np.ascontiguousarray(ordered.reshape(rows, -1).T)

    def _shape(self, words: tuple[int, ...]) -> tuple[int, int]:
        """Return [N, K] of a linear whose qweight has the shape `words`."""
        if self.layout == "gemm":
            return words[1] * _PER_WORD, words[0]
        return words[0], words[1] * _PER_WORD

    def _group(self, k: int) -> int:
        return k if self.group_size == PER_CHANNEL else self.group_size

    def _problems(self, parts: Parts, tensors: Mapping[str, TensorSpec]) -> list[str]:
        n, k = self._shape(tensors[parts["qweight"]].shape)
        group = self._group(k)
        if not k or k % group:
            return [f"{parts['qweight']} has K = {k}, which groups of {group} do not divide"]
        if self.layout == "gemm":
            zeros, scales = (k // group, n // _PER_WORD), (k // group, n)
        else:
            width = _padded_words(k // group, group)
            zeros, scales = (n, width), (n, width * _PER_WORD)
        return misshapen(parts, {"qzeros": zeros, "scales": scales}, tensors)

    def _linear(self, parts: Parts, tensors: Mapping[str, TensorSpec]) -> StoredLinear:
        shape = self._shape(tensors[parts["qweight"]].shape)
        scheme = StoredScheme(
            "integer",
            _BITS,
            "per-channel" if self.group_size == PER_CHANNEL else self.group_size,
            self.symmetric,
        )
        return StoredLinear(scheme, TensorSpec(shape, tensors[parts["scales"]].dtype), parts)


def _padded_words(groups: int, group: int) -> int:
    """Return how many words a row of gemv's zero-points takes."""
    words = math.ceil(groups / _PER_WORD)
    together = {64: 2, 32: 4}.get(group, 1)
    return math.ceil(words / together) * together
