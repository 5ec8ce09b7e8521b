"""Pack one quantized linear as compressed-tensors stores it, in its format pack-quantized.

    weight_packed      int32 [N, words of K], codes along K, the first in the lowest bits
    weight_scale       [N, groups], [N, 1] per channel, [1] per tensor
    weight_zero_point  int32 [words of N, groups], packed along N; int8 [1] per tensor
    weight_shape       int64 [2], N and K

A packed code is unsigned: to a signed one 2^(bits - 1) is added, and the library takes that off
again, of codes and of zero-points.

Source: compressors/pack_quantized of compressed-tensors 0.20. Differs: codes of 3 bits are packed
in 4, and those of 5 to 7 in 8, which all its releases read alike, and vLLM reads nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from castline.compiler.quant.arrays import Array
from castline.compiler.quant.packing import unsigned
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import GroupSize
from castline.errors import TargetError
from castline.exporters.readers.packed_words import packed, word_count
from castline.exporters.readers.tensors import TensorSpec

_INT8, _INT32, _INT64 = np.dtype(np.int8), np.dtype(np.int32), np.dtype(np.int64)


@dataclass(frozen=True)
class PackedLinear:
    """How one linear is stored, known before its codes are."""

    module: str
    """Its path in the model, such as "model.layers.0.mlp.up_proj"."""
    n: int
    k: int
    bits: int
    """That a code is stored in: 4 or 8."""
    group: GroupSize
    """What shares a stored scale: the group of the codes, or an exact part of it."""
    symmetric: bool
    scale_type: np.dtype[Any]
    exact: bool = False
    """Whether scales must not be rounded: they are somebody else's."""

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """The stored tensors by name."""
        per_tensor = self.group == "per-tensor"
        groups = self.k // self.group if isinstance(self.group, int) else 1
        parts = {
            "weight_packed": TensorSpec((self.n, self._words(self.k)), _INT32),
            "weight_scale": TensorSpec((1,) if per_tensor else (self.n, groups), self.scale_type),
            "weight_shape": TensorSpec((2,), _INT64),
        }
        if not self.symmetric:
            zeros = TensorSpec((self._words(self.n), groups), _INT32)
            parts["weight_zero_point"] = TensorSpec((1,), _INT8) if per_tensor else zeros
        return {f"{self.module}.{part}": spec for part, spec in parts.items()}

    def tensors(self, matrix: QuantizedMatrix) -> Mapping[str, Array]:
        """Return the arrays of `specs` for codes [K, N]. Raises TargetError as `_scales`."""
        codes = np.ascontiguousarray(matrix.codes.T)
        parts = {
            "weight_packed": packed(
                unsigned(codes, self.bits) if self.symmetric else codes, self.bits
            ),
            "weight_scale": self._scales(matrix),
            "weight_shape": np.array([self.n, self.k], _INT64),
        }
        if matrix.zero_points is not None:
            parts["weight_zero_point"] = self._zero_points(matrix)
        return {f"{self.module}.{part}": array for part, array in parts.items()}

    def _scales(self, matrix: QuantizedMatrix) -> Array:
        """Return scales as they are stored. Raises TargetError where the type cannot hold one.

        Where codes are carried over, that is one which the type would round.
        """
        with np.errstate(over="ignore"):
            scales: Array = matrix.scales.T.astype(self.scale_type)
        if not np.isfinite(scales).all():
            raise TargetError(
                f"{self.module}: a scale of {matrix.scales.max():.3g} is too large for "
                f"{self.scale_type.name}. Use --dtype bfloat16 or float32."
            )
        if self.exact and (scales.astype(np.float32) != matrix.scales.T.astype(np.float32)).any():
            raise TargetError(
                f"{self.module}: {self.scale_type.name} rounds scales that are stored in "
                f"{matrix.scales.dtype.name}. Use --dtype float32."
            )
        if self.group == "per-tensor":
            return scales.reshape(1)
        return scales.repeat(self._parts_of(matrix), axis=1)

    def _zero_points(self, matrix: QuantizedMatrix) -> Array:
        zeros = matrix.zero_points
        assert zeros is not None, "the caller looked"
        if self.group == "per-tensor":
            signed: Array = zeros.reshape(1).astype(np.int16) - (1 << (self.bits - 1))
            return signed.astype(_INT8)
        return np.ascontiguousarray(
            packed(zeros.repeat(self._parts_of(matrix), axis=0), self.bits).T
        )

    def _parts_of(self, matrix: QuantizedMatrix) -> int:
        """Return how many stored groups each group of the codes is."""
        return matrix.group // self.group if isinstance(self.group, int) else 1

    def _words(self, codes: int) -> int:
        return word_count(codes, self.bits, straddled=False)
