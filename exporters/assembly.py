"""Make parameters of stored tensors in the way that transformers' weight converters say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import torch
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    MergeModulelist,
    WeightConverter,
)

from castline.exporters.readers.converted import Made, Part
from castline.exporters.readers.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# torch and NumPy exchange these by their bits only.
_TORCH_DTYPES: dict[np.dtype[np.generic], torch.dtype] = {
    np.dtype(ml_dtypes.bfloat16): torch.bfloat16,
    np.dtype(ml_dtypes.float8_e4m3fn): torch.float8_e4m3fn,
    np.dtype(ml_dtypes.float8_e5m2): torch.float8_e5m2,
}
_NUMPY_DTYPES = {by_torch: by_numpy for by_numpy, by_torch in _TORCH_DTYPES.items()}
_BITS = {1: (np.uint8, torch.uint8), 2: (np.int16, torch.int16)}


@dataclass(frozen=True)
class Described:
    """The model as converters ask for it: its configuration and its parameters' shapes."""

    config: PretrainedConfig
    shapes: Mapping[str, tuple[int, ...]]

    def get_parameter(self, name: str) -> torch.Tensor:
        """Return a tensor without values in the parameter's shape."""
        return torch.empty(self.shapes[name], device="meta")


@dataclass(frozen=True)
class Assembly:
    """One use of a weight converter: it makes `target`, or several parameters of which it is one.

    `target` is the full name of the first parameter, such as
    "model.layers.0.mlp.experts.gate_up_proj".
    """

    converter: WeightConverter
    target: str
    model: Described

    @property
    def stacks(self) -> bool:
        """Whether the n-th entry of the target's first axis is made of the n-th sources alone."""
        first, *others = self.converter.operations
        return (
            isinstance(first, MergeModulelist)
            and first.dim == 0
            and all(isinstance(other, Concatenate) and other.dim > 0 for other in others)
        )

    @property
    def moves_rows(self) -> bool:
        """Whether matrices are only stacked, joined along N, or split along N."""
        operations = self.converter.operations[1:] if self.stacks else self.converter.operations
        rows = 1 if self.stacks else 0
        return all(
            isinstance(each, Concatenate | Chunk) and each.dim == rows for each in operations
        )

    def made(
        self, sources: Mapping[str, Sequence[str]], specs: Mapping[str, TensorSpec]
    ) -> dict[str, Made]:
        """Return the parameters that come of `sources`: the converter's pattern -> names, in order.

        A stack, whose patterns must have equally many sources of one shape and dtype, comes in a
        part for each. Nothing is read. torch's RuntimeError says why shapes do not go together.
        """
        patterns = [pattern for pattern in self.converter.source_patterns if pattern in sources]
        groups = [sources[pattern] for pattern in patterns]
        if not self.stacks:
            return self._parted([groups], patterns, specs)
        each = [[[name] for name in nth] for nth in zip(*groups, strict=True)]
        return self._parted(each, patterns, specs)

    def _parted(
        self,
        parts: Sequence[Sequence[Sequence[str]]],
        patterns: Sequence[str],
        specs: Mapping[str, TensorSpec],
    ) -> dict[str, Made]:
        counts = {pattern: len(names) for pattern, names in zip(patterns, parts[0], strict=True)}
        like = [_without_values(specs[name]) for name in chain.from_iterable(parts[0])]
        return {
            output: Made(
                _spec(tensor, len(parts)),
                tuple(
                    Part(
                        tuple(chain.from_iterable(part)),
                        partial(self._part, counts, output),
                        self.moves_rows,
                    )
                    for part in parts
                ),
            )
            for output, tensor in self._outputs(counts, like).items()
        }

    def _part(self, counts: Mapping[str, int], output: str, arrays: Sequence[Array]) -> Array:
        outputs = self._outputs(counts, map(torch_from_numpy, arrays))
        return numpy_from_torch(outputs[output])

    def _outputs(
        self, counts: Mapping[str, int], tensors: Iterable[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        converter = deepcopy(self.converter)  # it collects what it is given
        following = iter(tensors)
        for pattern, count in counts.items():
            for _ in range(count):
                converter.add_tensor(self.target, self.target, pattern, next(following))
        outputs = converter.convert(self.target, model=self.model, config=self.model.config)
        return {
            name: value[0] if isinstance(value, list) else value for name, value in outputs.items()
        }


def torch_from_numpy(array: Array) -> torch.Tensor:
    """Return the array as a tensor of the same dtype, sharing its memory where it is writable."""
    array = array if array.flags.writeable else array.copy()
    dtype = _TORCH_DTYPES.get(array.dtype)
    if dtype is None:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(_BITS[array.itemsize][0])).view(dtype)


def numpy_from_torch(tensor: torch.Tensor) -> Array:
    """Return the tensor as a contiguous array of the same dtype."""
    tensor = tensor.contiguous()
    dtype = _NUMPY_DTYPES.get(tensor.dtype)
    if dtype is None:
        return np.asarray(tensor.numpy())
    return np.asarray(tensor.view(_BITS[tensor.itemsize][1]).numpy()).view(dtype)


def _without_values(spec: TensorSpec) -> torch.Tensor:
    dtype = torch_from_numpy(np.empty(0, spec.dtype)).dtype
    return torch.empty(spec.shape, dtype=dtype, device="meta")


def _spec(part: torch.Tensor, parts: int) -> TensorSpec:
    """Return the spec of so many parts like `part`, one after the other on the first axis."""
    dtype = numpy_from_torch(torch.empty(0, dtype=part.dtype)).dtype
    shape = tuple(part.shape) if parts == 1 else (parts * part.shape[0], *part.shape[1:])
    return TensorSpec(shape, dtype)
