"""Call the kernels on arrays: numpy's on the emulated library, torch's on a GPU.

What the calls compute is said in plugins/common/kernels.h. They allocate the results and the
scratch memory, so they are for tests and for looking; who times calls plugins/binding.py.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np

from castline.plugins.binding import (
    Channels,
    ElementType,
    Kernels,
    OffsetsKind,
    Product,
    Scratch,
)
from castline.plugins.packing import packed_shape

AnyArray = Any
"""An array of numpy or a tensor of torch: the caller's, and never both."""

_TYPES = {"float16": ElementType.FLOAT16, "bfloat16": ElementType.BFLOAT16}
_RUBBISH = 0xCD


class Memory(Protocol):
    """Where arrays lie."""

    def address(self, array: AnyArray) -> int:
        """Return where the first byte is; the array is contiguous."""

    def type_name(self, array: AnyArray) -> str:
        """Return the name of the type in numpy: "bfloat16"."""

    def full_of_rubbish(self, shape: tuple[int, ...], type_name: str) -> AnyArray:
        """Return an array that nobody has written."""

    def zeros(self, count: int) -> AnyArray:
        """Return zeros of int32."""

    def stream(self) -> int:
        """Return the stream that kernels run in."""


class HostMemory:
    """numpy's arrays, for the emulated library."""

    def address(self, array: AnyArray) -> int:
        """Return the address of the data."""
        assert array.flags.c_contiguous, "kernels take contiguous arrays"
        return int(array.ctypes.data)

    def type_name(self, array: AnyArray) -> str:
        """Return the name of the data type."""
        return str(array.dtype.name)

    def full_of_rubbish(self, shape: tuple[int, ...], type_name: str) -> AnyArray:
        """Return bytes of no meaning, so that what is not written is seen."""
        array = np.empty(shape, np.dtype(type_name))
        array.view(np.uint8).fill(_RUBBISH)
        return array

    def zeros(self, count: int) -> AnyArray:
        """Return zeros of int32."""
        return np.zeros(count, np.int32)

    def stream(self) -> int:
        """Return nothing: the emulator has no streams."""
        return 0


class CudaMemory:
    """Tensors of torch on its current CUDA device; kernels run in its current stream."""

    def __init__(self, torch: ModuleType) -> None:
        """Take the module, which this file does not import."""
        self._torch = torch

    def address(self, array: AnyArray) -> int:
        """Return the address of the data."""
        assert array.is_contiguous(), "kernels take contiguous tensors"
        assert array.is_cuda, "kernels take tensors on the GPU"
        return int(array.data_ptr())

    def type_name(self, array: AnyArray) -> str:
        """Return the name of the data type."""
        return str(array.dtype).removeprefix("torch.")

    def full_of_rubbish(self, shape: tuple[int, ...], type_name: str) -> AnyArray:
        """Return bytes of no meaning, so that what is not written is seen."""
        array = self._torch.empty(shape, dtype=getattr(self._torch, type_name), device="cuda")
        array.view(self._torch.uint8).fill_(_RUBBISH)
        return array

    def zeros(self, count: int) -> AnyArray:
        """Return zeros of int32."""
        return self._torch.zeros(count, dtype=self._torch.int32, device="cuda")

    def stream(self) -> int:
        """Return torch's current stream."""
        return int(self._torch.cuda.current_stream().cuda_stream)


class ArrayKernels:
    """The kernels on arrays of one kind of memory. x and codes are [m, k]; results are new."""

    def __init__(self, kernels: Kernels, memory: Memory | None = None) -> None:
        """Take a library, and where its arrays lie: numpy's on the host where nothing is said."""
        self.kernels = kernels
        self._memory: Memory = HostMemory() if memory is None else memory

    def weight_only(
        self,
        x: AnyArray,
        packed: AnyArray,
        scales: AnyArray,
        offsets: AnyArray,
        bias: AnyArray,
        *,
        n: int,
        k: int,
        group: int,
        tactic: int = 0,
    ) -> AnyArray:
        """Return y [m, n]; `offsets` [strips, groups, 16] are zero points or float32."""
        m = len(x)
        product = Product(m, n, k, self._float_type(x), 4, group)
        packed_scales = (packed_shape(n, k, 4)[0], -(-k // group), 16)
        self._check(x, (m, k))
        self._check_packed(packed, product)
        self._check(scales, packed_scales, x)
        self._check(offsets, packed_scales)
        self._check(bias, (n,), x)
        kinds = {"int8": OffsetsKind.ZERO_POINTS, "float32": OffsetsKind.FLOAT_OFFSETS}
        y = self._memory.full_of_rubbish((m, n), self._memory.type_name(x))
        scratch, tickets = self._scratch(product, False, tactic)
        self.kernels.weight_only(
            product,
            x=self._at(x),
            packed=self._at(packed),
            scales=self._at(scales),
            offsets=self._at(offsets),
            offsets_kind=kinds[self._memory.type_name(offsets)],
            bias=self._at(bias),
            y=self._at(y),
            tactic=tactic,
            scratch=scratch,
            stream=self._memory.stream(),
        )
        assert not tickets[1].any(), "a product must leave its tickets zero"
        return y

    def integer(
        self,
        codes: AnyArray,
        scale: AnyArray,
        packed: AnyArray,
        weight_scale: AnyArray,
        bias: AnyArray,
        *,
        n: int,
        k: int,
        weight_bits: int,
        zero_point: AnyArray | None = None,
        weight_zero_point: AnyArray | None = None,
        weight_sums: AnyArray | None = None,
        group_scales: AnyArray | None = None,
        group: int = 0,
        tactic: int = 0,
    ) -> AnyArray:
        """Return y [m, n] of the type of `weight_scale`; scale and zero_point have m elements.

        `group_scales` are packed, one for `group` input channels.
        """
        m = len(codes)
        product = Product(m, n, k, self._float_type(weight_scale), weight_bits, group)
        self._check(codes, (m, k))
        self._check_packed(packed, product)
        for each in (weight_scale, bias):
            self._check(each, (n,), weight_scale)
        y = self._memory.full_of_rubbish((m, n), self._memory.type_name(weight_scale))
        scratch, tickets = self._scratch(product, True, tactic)
        self.kernels.integer(
            product,
            codes=self._at(codes),
            scale=self._of_type(scale, "float32"),
            zero_point=self._of_type(zero_point, "int8"),
            packed=self._at(packed),
            weight_scale=self._at(weight_scale),
            weight_zero_point=self._of_type(weight_zero_point, "int8"),
            weight_sums=self._of_type(weight_sums, "int32"),
            bias=self._at(bias),
            y=self._at(y),
            group_scales=self._of_type(group_scales, "int8"),
            tactic=tactic,
            scratch=scratch,
            stream=self._memory.stream(),
        )
        assert not tickets[1].any(), "a product must leave its tickets zero"
        return y

    def product(
        self, m: int, n: int, k: int, type_name: str, weight_bits: int, group: int = 0
    ) -> Product:
        """Return the shape of a product whose results have this type, such as "float16"."""
        return Product(m, n, k, _TYPES[type_name], weight_bits, group)

    def quantize(
        self, x: AnyArray, bits: int, *, symmetric: bool
    ) -> tuple[AnyArray, AnyArray, AnyArray | None]:
        """Return codes [m, k], scale [m, 1] and zero_point [m, 1], or None where symmetric."""
        m, k = x.shape
        codes, scale, zero_point = self._codes(m, k, symmetric)
        self.kernels.quantize(
            *(m, k, self._float_type(x), bits),
            x=self._at(x),
            codes=self._at(codes),
            scale=self._at(scale),
            zero_point=self._at(zero_point),
            stream=self._memory.stream(),
        )
        return codes, scale, zero_point

    def reassemble(self, x: AnyArray, *sources: AnyArray) -> AnyArray:
        """Return y [m, k]; `sources` are gather, scale, place, channel, channel_scale."""
        m, k = x.shape
        y = self._memory.full_of_rubbish((m, k), self._memory.type_name(x))
        self.kernels.reassemble(
            *(m, k, self._float_type(x), self._channels(k, *sources)),
            x=self._at(x),
            y=self._at(y),
            stream=self._memory.stream(),
        )
        return y

    def reassemble_quantize(
        self, x: AnyArray, *sources: AnyArray, bits: int, symmetric: bool
    ) -> tuple[AnyArray, AnyArray, AnyArray | None]:
        """Return what `quantize` returns of what `reassemble` returns."""
        m, k = x.shape
        codes, scale, zero_point = self._codes(m, k, symmetric)
        self.kernels.reassemble_quantize(
            *(m, k, self._float_type(x), self._channels(k, *sources), bits),
            x=self._at(x),
            codes=self._at(codes),
            scale=self._at(scale),
            zero_point=self._at(zero_point),
            stream=self._memory.stream(),
        )
        return codes, scale, zero_point

    def _codes(self, m: int, k: int, symmetric: bool) -> tuple[AnyArray, AnyArray, AnyArray | None]:
        new = self._memory.full_of_rubbish
        zero_point = None if symmetric else new((m, 1), "int8")
        return new((m, k), "int8"), new((m, 1), "float32"), zero_point

    def _channels(
        self,
        k: int,
        gather: AnyArray,
        scale: AnyArray,
        place: AnyArray,
        channel: AnyArray,
        channel_scale: AnyArray,
    ) -> Channels:
        for of_all in (gather, scale):
            self._check(of_all, (k,))
        for of_extras in (channel, channel_scale):
            self._check(of_extras, tuple(place.shape))
        return Channels(
            len(place),
            self._of_type(gather, "int32"),
            self._of_type(scale, "float32"),
            self._of_type(place, "int32"),
            self._of_type(channel, "int32"),
            self._of_type(channel_scale, "float32"),
        )

    def _scratch(
        self, product: Product, integer: bool, tactic: int
    ) -> tuple[Scratch, tuple[AnyArray, AnyArray]]:
        size, count = self.kernels.scratch(product, integer=integer, max_m=product.m, tactic=tactic)
        held = self._memory.full_of_rubbish((size,), "int8"), self._memory.zeros(count)
        partials, tickets = map(self._at, held)
        return Scratch(partials, size, tickets, count), held

    def _at(self, array: AnyArray | None) -> int:
        return 0 if array is None else self._memory.address(array)

    def _of_type(self, array: AnyArray | None, type_name: str) -> int:
        assert array is None or self._memory.type_name(array) == type_name, type_name
        return self._at(array)

    def _float_type(self, array: AnyArray) -> ElementType:
        return _TYPES[self._memory.type_name(array)]

    def _check_packed(self, packed: AnyArray, product: Product) -> None:
        self._check(packed, packed_shape(product.n, product.k, product.weight_bits))
        assert self._memory.type_name(packed) == "int8"

    def _check(self, array: AnyArray, shape: tuple[int, ...], like: AnyArray = None) -> None:
        assert tuple(array.shape) == shape, f"{tuple(array.shape)} should be {shape}"
        same = like is None or array.dtype == like.dtype
        assert same, f"{array.dtype} should be the type of the values"
