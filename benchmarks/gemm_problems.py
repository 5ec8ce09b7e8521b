"""State the products of `gemm.py`: random inputs, the call of a kernel, and the result in float64.

Tensors are torch's, on the host (the emulated kernels) or on a GPU. Packed weights are random
bytes: each is two codes of 4 bits or one of 8, so nothing has to be packed to be timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from castline.plugins.binding import (
    Channels,
    ElementType,
    Kernels,
    OffsetsKind,
    Product,
    Scratch,
)
from castline.plugins.packing import packed_shape, unpack, unpack_scales

TYPES = {torch.float16: ElementType.FLOAT16, torch.bfloat16: ElementType.BFLOAT16}
POISON = float("nan")
# Deviations of x: few channels of large values are what language models have.
OUTLIERS, PLAIN, ZEROS, LARGEST, TINY = "outliers", "plain", "zeros", "largest", "tiny"
LARGEST_X = 448.0  # the sum of k such, times weights of about 1 / sqrt(k), is a float16
DATA = (OUTLIERS, PLAIN, ZEROS, LARGEST, TINY)
LEVELS = 16  # whole numbers that scales of groups are, from 1 on
EXPANDED_FROM = 256  # tokens above which weights may be stored as floats before they are used


@dataclass(frozen=True)
class Scheme:
    """What is multiplied by what. `activation_bits` 16: as they are; fewer: quantized per token."""

    name: str
    weight_bits: int
    activation_bits: int
    group: int = 0  # input channels that share a scale; 0: all
    float_offsets: bool = False
    asymmetric: bool = False  # tokens have zero points
    weight_zero_points: bool = False  # output channels have zero points
    reassembled: bool = False  # channels are taken apart and put together before they are quantized

    @property
    def integer(self) -> bool:
        """Whether codes are multiplied by codes."""
        return self.activation_bits < 16


SCHEMES = (
    Scheme("W4A16", 4, 16, group=128),
    Scheme("W4A16 offsets", 4, 16, group=128, float_offsets=True),
    Scheme("W8A8", 8, 8),
    Scheme("W8A8 asymmetric", 8, 8, asymmetric=True),
    Scheme("W4A8", 4, 8, weight_zero_points=True),
    Scheme("W4A8 groups", 4, 8, group=128),
    Scheme("W4A4 QLLM", 4, 4, asymmetric=True, weight_zero_points=True, reassembled=True),
)


@dataclass(frozen=True)
class Weights:
    """One set of weights of a scheme, as its kernel reads them; what it has no use for is None."""

    packed: Tensor
    scales: Tensor  # [strips, groups, 16] of groups; [N] per output channel
    offsets: Tensor | None  # of groups: zero points int8, or float32; integer products: scales int8
    zero_points: Tensor | None  # [N] int8
    sums: Tensor | None  # [N] int32
    bias: Tensor  # [N]


@dataclass(frozen=True)
class Operands:
    """What a call reads and writes beside weights. `codes` and the rest: the prologue's results."""

    x: Tensor  # [M, K]
    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    channels: tuple[Tensor, ...]  # gather, scale, place, channel, channel_scale
    y: Tensor  # [M, N]


@dataclass(frozen=True)
class Problem:
    """A scheme at a shape, in a float type, on a device."""

    scheme: Scheme
    m: int
    n: int
    k: int
    dtype: torch.dtype
    device: str
    data: str = OUTLIERS

    @property
    def kind(self) -> str:
        """What its errors are judged as: `gemm_accuracy.MOST_STEPS`."""
        if self.scheme.integer:
            return "integer"
        return "expanded" if self.m > EXPANDED_FROM else "weight-only"

    @property
    def product(self) -> Product:
        """The shape as the kernels take it."""
        scheme = self.scheme
        return Product(self.m, self.n, self.k, TYPES[self.dtype], scheme.weight_bits, scheme.group)

    def weights(self, generator: torch.Generator) -> Weights:
        """Return random weights of about unit variance of y for unit x."""
        scheme, n, k = self.scheme, self.n, self.k
        strips = packed_shape(n, k, scheme.weight_bits)[0]
        packed = self._bytes(packed_shape(n, k, scheme.weight_bits), generator)
        step = 1 / (0.29 * 2**scheme.weight_bits * k**0.5)  # 0.29: deviation of even codes
        groups = -(-k // scheme.group) if scheme.group else 0
        of_groups = (strips, groups, 16)
        in_two_levels = scheme.integer and groups > 0
        if in_two_levels:
            step /= LEVELS / 2  # what the scales of groups are about
        shape = of_groups if groups and not in_two_levels else (n,)
        scales = (self._uniform(shape, generator) + 0.5) * step
        bias = self._uniform((n,), generator).to(self.dtype)
        offsets = zero_points = sums = None
        if in_two_levels:
            offsets = self._bytes(of_groups, generator) % LEVELS + 1
        elif groups:
            offsets = self._bytes(shape, generator) % 16 - 8
            if scheme.float_offsets:
                offsets = -offsets.float() * scales
        if scheme.weight_zero_points:
            zero_points = self._bytes((n,), generator) % 16 - 8
        if scheme.asymmetric:
            sums = self._codes(packed, zero_points).sum(1).to(torch.int32)
        return Weights(packed, scales.to(self.dtype), offsets, zero_points, sums, bias)

    def operands(self, generator: torch.Generator) -> Operands:
        """Return random x, and room for results."""
        m, k, device = self.m, self.k, self.device
        extras = max(k // 64, 1)
        channels = (
            torch.randint(k, (k,), generator=generator, device=device).int(),
            self._uniform((k,), generator) + 0.5,
            torch.arange(extras, device=device, dtype=torch.int32) * 64 % k,
            torch.randint(k, (extras,), generator=generator, device=device).int(),
            self._uniform((extras,), generator) + 0.5,
        )
        return Operands(
            self._x(generator).to(self.dtype),
            torch.zeros(m, k, dtype=torch.int8, device=device),
            torch.zeros(m, 1, device=device),
            torch.zeros(m, 1, dtype=torch.int8, device=device) if self.scheme.asymmetric else None,
            channels,
            torch.full((m, self.n), POISON, dtype=self.dtype, device=device),
        )

    def scratch(self, kernels: Kernels, tactic: int) -> tuple[Scratch, tuple[Tensor, Tensor]]:
        """Return the scratch memory of a tactic, and the tensors that it lies in."""
        size, count = kernels.scratch(
            self.product, integer=self.scheme.integer, max_m=self.m, tactic=tactic
        )
        partials = torch.empty(size, dtype=torch.int8, device=self.device)
        tickets = torch.zeros(count, dtype=torch.int32, device=self.device)
        held = Scratch(partials.data_ptr(), size, tickets.data_ptr(), count)
        return held, (partials, tickets)

    def prologue(self, kernels: Kernels, to: Operands, stream: int) -> None:
        """Write codes, scale and zero_point of x."""
        scheme = self.scheme
        results = {
            "x": to.x.data_ptr(),
            "codes": to.codes.data_ptr(),
            "scale": to.scale.data_ptr(),
            "zero_point": _address(to.zero_point),
            "stream": stream,
        }
        shape = (self.m, self.k, TYPES[self.dtype])
        if not scheme.reassembled:
            kernels.quantize(*shape, scheme.activation_bits, **results)
            return
        addresses = Channels(len(to.channels[2]), *(each.data_ptr() for each in to.channels))
        kernels.reassemble_quantize(*shape, addresses, scheme.activation_bits, **results)

    def call(
        self, kernels: Kernels, weights: Weights, to: Operands, stream: int = 0
    ) -> Callable[[int, Scratch], None]:
        """Return what launches the product, without the prologue, with a tactic and scratch."""
        if self.scheme.integer:
            return self._integer(kernels, weights, to, stream)
        kind = OffsetsKind.FLOAT_OFFSETS if self.scheme.float_offsets else OffsetsKind.ZERO_POINTS

        def weight_only(tactic: int, scratch: Scratch) -> None:
            kernels.weight_only(
                self.product,
                x=to.x.data_ptr(),
                packed=weights.packed.data_ptr(),
                scales=weights.scales.data_ptr(),
                offsets=_address(weights.offsets),
                offsets_kind=kind,
                bias=weights.bias.data_ptr(),
                y=to.y.data_ptr(),
                tactic=tactic,
                scratch=scratch,
                stream=stream,
            )

        return weight_only

    def matrix(self, weights: Weights) -> Tensor:
        """Return the weight [N, K] in float64: with its scales where groups have some."""
        if self.scheme.group:
            return self._of_groups(weights)
        return self._codes(weights.packed, weights.zero_points).double()

    def reference(self, weights: Weights, matrix: Tensor, to: Operands) -> Tensor:
        """Return y in float64, of the codes that the prologue has left in `to`."""
        bias = weights.bias.double()
        if not self.scheme.integer:
            return to.x.double() @ matrix.T + bias
        codes = to.codes.double()
        if to.zero_point is not None:
            codes = codes - to.zero_point.double()
        return codes @ matrix.T * weights.scales.double() * to.scale.double() + bias

    def _integer(
        self, kernels: Kernels, weights: Weights, to: Operands, stream: int
    ) -> Callable[[int, Scratch], None]:
        def integer(tactic: int, scratch: Scratch) -> None:
            kernels.integer(
                self.product,
                codes=to.codes.data_ptr(),
                scale=to.scale.data_ptr(),
                zero_point=_address(to.zero_point),
                packed=weights.packed.data_ptr(),
                weight_scale=weights.scales.data_ptr(),
                weight_zero_point=_address(weights.zero_points),
                weight_sums=_address(weights.sums),
                group_scales=_address(weights.offsets),
                bias=weights.bias.data_ptr(),
                y=to.y.data_ptr(),
                tactic=tactic,
                scratch=scratch,
                stream=stream,
            )

        return integer

    def _of_groups(self, weights: Weights) -> Tensor:
        assert weights.offsets is not None, "groups have offsets"
        of_k = torch.arange(self.k, device=self.device) // self.scheme.group
        codes = self._codes(weights.packed, None).double()
        offsets = self._unpacked(weights.offsets)
        if self.scheme.integer:
            return codes * offsets[:, of_k]
        scales = self._unpacked(weights.scales)
        if self.scheme.float_offsets:
            return codes * scales[:, of_k] + offsets[:, of_k]
        return (codes - offsets[:, of_k]) * scales[:, of_k]

    def _unpacked(self, of_groups: Tensor) -> Tensor:
        unpacked = unpack_scales(of_groups.cpu().double().numpy(), self.n)
        return torch.from_numpy(unpacked).to(self.device)

    def _codes(self, packed: Tensor, zero_points: Tensor | None) -> Tensor:
        """Return the codes [N, K], less zero points, as int16."""
        codes = unpack(packed.cpu().numpy(), self.n, self.k, self.scheme.weight_bits)
        wide = torch.from_numpy(codes.copy()).to(self.device, torch.int16)
        return wide if zero_points is None else wide - zero_points[:, None]

    def _x(self, generator: torch.Generator) -> Tensor:
        x = torch.randn(self.m, self.k, generator=generator, device=self.device)
        if self.data == OUTLIERS:
            x[:, :: max(self.k // 4, 1)] *= 60
        factors = {ZEROS: 0.0, TINY: 2.0**-14, LARGEST: 0.0}
        x *= factors.get(self.data, 1.0)
        return x + (LARGEST_X if self.data == LARGEST else 0.0)

    def _bytes(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        found = torch.randint(-128, 128, shape, generator=generator, device=self.device)
        return found.to(torch.int8)

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, device=self.device)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
