"""Say how weights, activations and caches are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FEWEST_BITS, MOST_BITS = 2, 8
_SMALLEST_GROUP = 16  # the least that every runtime's blocked kernels take

GroupSize: TypeAlias = int | Literal["per-channel", "per-tensor"]
Method: TypeAlias = Literal["max", "percentile", "mse", "entropy"]
ActivationGranularity: TypeAlias = Literal["per-tensor", "per-token"]
CacheGranularity: TypeAlias = Literal["per-tensor", "per-channel"]


@dataclass(frozen=True)
class RangeMethod:
    """How the range that the codes span is chosen; what lies beyond it is clipped."""

    method: Method = "max"
    """max: nothing is clipped. percentile: the share of values in `percentile` is kept. mse: the
    squared error is least. entropy: the KL divergence of the histograms is least."""

    percentile: float = 99.9
    """Per cent of the values within the range; read by the method percentile alone."""

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile is {self.percentile}; expected above 50 and up to 100")

    def __str__(self) -> str:
        return f"percentile {self.percentile:g}" if self.method == "percentile" else self.method


@dataclass(frozen=True)
class QuantParameters:
    """What turns a code into a value: (code - zero_point) * scale."""

    scale: float
    """Above zero."""
    zero_point: int
    """0 on a symmetric grid."""


@dataclass(frozen=True)
class WeightScheme:
    """How the weights of a linear are stored; K is its input dimension, N its output dimension."""

    bits: int
    """2 to 8."""

    group_size: GroupSize
    """Neighbours along K that share one scale, or "per-channel" (a scale for each of N), or
    "per-tensor" (one scale)."""

    symmetric: bool
    """Whether the grid is centred on zero; otherwise each scale has an integer zero-point."""

    range: RangeMethod = RangeMethod()
    """How the range of each scale is chosen; entropy needs more weights than a group has."""

    two_level: bool = False
    """Whether the scales of a channel's groups are whole numbers, 1 to 16, times one scale of the
    channel, so that INT8 holds each code times its group's number; in 4 bits alone."""

    def __post_init__(self) -> None:
        _require_bits(self.bits)
        if isinstance(self.group_size, int) and not _is_group(self.group_size):
            raise ValueError(
                f"group_size is {self.group_size}; expected a power of two from {_SMALLEST_GROUP} "
                "on, per-channel or per-tensor"
            )
        if isinstance(self.group_size, int) and self.range.method == "entropy":
            raise ValueError(
                f"range is entropy and group_size {self.group_size}; expected per-channel or "
                "per-tensor: the few weights of a group have no distribution to speak of"
            )
        if self.two_level and (self.bits, self.symmetric) != (4, True):
            raise ValueError(
                f"two_level is true with bits {self.bits} and symmetric "
                f"{str(self.symmetric).lower()}; expected bits 4 and symmetric true: a code times "
                "the integer scale of its group must be an INT8 number"
            )
        if self.two_level and isinstance(self.group_size, str):
            raise ValueError(
                f"two_level is true and group_size {self.group_size}; expected 16, 32, 64 or 128: "
                "one level alone has one scale per channel"
            )

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code: two's complement when symmetric, unsigned otherwise."""
        return _code_range(self.bits, self.symmetric)

    @property
    def storage_bits(self) -> int:
        """Bits that ONNX has an integer type for: 4 or 8."""
        return 4 if self.bits <= 4 else 8

    def group_for(self, k: int) -> GroupSize:
        """Return the group that a matrix with input dimension `k` gets.

        A group that does not divide K gives way to the largest power of two below it that does,
        and where none of at least 16 does, to one scale per channel: no runtime here agrees with
        another on a ragged last group.
        """
        group = self.group_size
        while isinstance(group, int) and k % group:
            group = group // 2 if group // 2 >= _SMALLEST_GROUP else "per-channel"
        return group

    def in_two_levels(self, k: int) -> bool:
        """Return whether a matrix with input dimension `k` has scales of two levels."""
        return self.two_level and isinstance(self.group_for(k), int)

    def __str__(self) -> str:
        group = self.group_size
        parts = [f"INT{self.bits}", f"group {group}" if isinstance(group, int) else _words(group)]
        if self.two_level:
            parts.append("two levels")
        parts.append("symmetric" if self.symmetric else "zero-points")
        return ", ".join(
            parts if self.range.method == "max" else [*parts, f"range by {self.range}"]
        )


@dataclass(frozen=True)
class ActivationScheme:
    """How what a linear reads is quantized, before it is multiplied."""

    bits: int
    """2 to 8."""

    granularity: ActivationGranularity
    """Whether each token has a scale of its own or all share one."""

    dynamic: bool
    """Whether scales are taken from the values at run time, or once from calibration (static)."""

    symmetric: bool = True
    range: RangeMethod = RangeMethod()
    """How a static range is chosen; dynamic ranges are those of the values."""

    def __post_init__(self) -> None:
        _require_bits(self.bits)
        if self.granularity == "per-token" and not self.dynamic:
            raise ValueError("a scale per token is known at run time only; expected dynamic")
        if self.dynamic and self.range.method != "max":
            raise ValueError(f"range is {self.range}; dynamic ranges are by max")

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code, of two's complement.

        A symmetric grid puts the largest absolute value at 2^(b-1) - 1, as SmoothQuant does, so
        dynamic scales leave the least code out; what lies below a static range may take it, as
        QuantizeLinear has it.
        """
        least, most = _code_range(self.bits, symmetric=True)
        return (-most if self.symmetric and self.dynamic else least), most

    def __str__(self) -> str:
        kind = "dynamic" if self.dynamic else "static"
        parts = [f"INT{self.bits}", _words(self.granularity), kind]
        parts.append("symmetric" if self.symmetric else "zero-points")
        return ", ".join(
            parts if self.range.method == "max" else [*parts, f"range by {self.range}"]
        )


@dataclass(frozen=True)
class CacheScheme:
    """How keys and values are kept in the cache: INT8, symmetric, by static scales."""

    granularity: CacheGranularity
    """Whether all share one scale, or each channel of each head has its own."""


def _code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    if symmetric:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def _is_group(size: int) -> bool:
    return size >= _SMALLEST_GROUP and size.bit_count() == 1


def _require_bits(bits: int) -> None:
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"bits is {bits}; expected {FEWEST_BITS} to {MOST_BITS}")


def _words(granularity: str) -> str:
    return granularity.replace("-", " ")
