"""Keep the keys and values of past tokens inside ONNX Runtime, from one run to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from castline.compiler.targets.runtime import onnxruntime_module

if TYPE_CHECKING:
    import onnxruntime

# How numpy stores the values of onnx.TensorProto.DataType: it has no bfloat16.
_STORED = {1: np.float32, 3: np.int8, 10: np.float16, 16: np.uint16}


@dataclass(frozen=True)
class CacheLayout:
    """What the graph says about its cache.

    `pairs` names the input and the output of each cache tensor; `sizes` has the KV heads and the
    head size of each; `element_type` is their `onnx.TensorProto.DataType`, and `device` where they
    live ("cpu" or "cuda"). `fixed` says that new tokens are written into it at indices that are an
    input, and `capacity` how many it holds then, where the graph says so.
    """

    pairs: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[int, int], ...]
    element_type: int
    device: str
    fixed: bool = False
    capacity: int | None = None

    def allocate(self, batch: int, length: int) -> list[onnxruntime.OrtValue]:
        """Return one tensor [batch, heads, length, size] a pair; what it holds is undefined."""
        value = onnxruntime_module().OrtValue
        return [
            value.ortvalue_from_shape_and_type(
                [batch, heads, length, head_size], self.element_type, self.device
            )
            for heads, head_size in self.sizes
        ]

    def allocate_zeros(self, batch: int, length: int) -> list[onnxruntime.OrtValue]:
        """Return one tensor [batch, heads, length, size] of zeros a pair."""
        value = onnxruntime_module().OrtValue
        arrays = [
            np.zeros((batch, heads, length, head_size), _STORED[self.element_type])
            for heads, head_size in self.sizes
        ]
        if self.device == "cpu":
            kind = self.element_type
            return [value.ortvalue_from_numpy_with_onnx_type(array, kind) for array in arrays]
        return [value.ortvalue_from_numpy(array, self.device) for array in arrays]


class Cache(Protocol):
    """Binds past and present of every layer to a run."""

    def bind(self, binding: onnxruntime.IOBinding) -> None:
        """Bind before a run, after the other outputs are bound."""
        ...

    def keep(self, presents: list[onnxruntime.OrtValue]) -> None:
        """Take the cache outputs of the run that has ended, in the order of the pairs."""
        ...

    def held(self) -> tuple[onnxruntime.OrtValue, ...]:
        """Return what `restore` needs to come back to here; runs do not write into it."""
        ...

    def restore(self, held: tuple[onnxruntime.OrtValue, ...]) -> None:
        """Come back to where `held` was taken."""
        ...


class GrowingCache:
    """A cache whose present outputs, allocated by ONNX Runtime, are the next run's past."""

    def __init__(self, layout: CacheLayout, batch: int) -> None:
        self._layout = layout
        self._past = layout.allocate(batch, 0)

    def bind(self, binding: onnxruntime.IOBinding) -> None:
        for (past, present), value in zip(self._layout.pairs, self._past, strict=True):
            binding.bind_ortvalue_input(past, value)
            binding.bind_output(present, self._layout.device)

    def keep(self, presents: list[onnxruntime.OrtValue]) -> None:
        self._past = presents

    def held(self) -> tuple[onnxruntime.OrtValue, ...]:
        return tuple(self._past)

    def restore(self, held: tuple[onnxruntime.OrtValue, ...]) -> None:
        self._past = list(held)


class SharedCache:
    """A cache of a fixed capacity, which the graph updates in place.

    Past and present of a layer are one buffer. Only operators made for it work so:
    com.microsoft.GroupQueryAttention takes the number of valid rows from the attention mask, and
    TensorScatter where to write from an input. Attention reads the whole buffer behind the latter,
    so that it must hold numbers from the start: a masked place weighs 0, and 0 times NaN is NaN.
    """

    def __init__(self, layout: CacheLayout, batch: int, capacity: int) -> None:
        self._layout = layout
        allocate = layout.allocate_zeros if layout.fixed else layout.allocate
        self._buffers = allocate(batch, capacity)

    def bind(self, binding: onnxruntime.IOBinding) -> None:
        for (past, present), value in zip(self._layout.pairs, self._buffers, strict=True):
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)

    def keep(self, presents: list[onnxruntime.OrtValue]) -> None:
        assert len(presents) == len(self._buffers), "bind() bound one output for each buffer"

    def held(self) -> tuple[onnxruntime.OrtValue, ...]:
        return ()  # later runs write behind these tokens, and the mask says how many are valid

    def restore(self, held: tuple[onnxruntime.OrtValue, ...]) -> None:
        assert held == (), "held() gave nothing"
