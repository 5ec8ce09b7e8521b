"""Say how a weight matrix is quantized, and by which group where the asked one does not fit."""

from __future__ import annotations

from dataclasses import dataclass

BITS = (4, 8)
GROUP_SIZES = (32, 64, 128)
_SMALLEST_GROUP = 16  # the least that every runtime's blocked kernels take


@dataclass(frozen=True)
class WeightScheme:
    """How the weights of a linear are stored; K is its input dimension, N its output dimension."""

    bits: int
    """4 or 8."""

    group_size: int | None
    """Neighbours along K that share one scale, 32, 64 or 128; None for a scale per channel (N)."""

    symmetric: bool
    """Whether the grid is centred on zero; otherwise each scale has an integer zero-point."""

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits is {self.bits}; expected one of {BITS}")
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            raise ValueError(
                f"group_size is {self.group_size}; expected one of {GROUP_SIZES} or per channel"
            )

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code: two's complement when symmetric, unsigned otherwise."""
        if self.symmetric:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    def group_for(self, k: int) -> int | None:
        """Return the group that a matrix with input dimension `k` gets, None for per channel.

        A group that does not divide K gives way to the largest power of two below it that does,
        and where none of at least 16 does, to one scale per channel: no runtime here agrees with
        another on a ragged last group.
        """
        group = self.group_size
        while group is not None and k % group:
            group = group // 2 if group // 2 >= _SMALLEST_GROUP else None
        return group

    def __str__(self) -> str:
        groups = "per channel" if self.group_size is None else f"group {self.group_size}"
        grid = "symmetric" if self.symmetric else "zero-points"
        return f"INT{self.bits}, {groups}, {grid}"
