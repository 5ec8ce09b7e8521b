"""Hand codes over that somebody else chose: a checkpoint that stores them, or a search."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import WeightScheme


@dataclass(frozen=True, eq=False)
class GivenCodes:
    """The codes of one linear, or of each matrix of a stack, known without reading them.

    What the scheme's range says has no meaning here: the codes are chosen.
    """

    scheme: WeightScheme
    matrices: Callable[[], Iterable[QuantizedMatrix]]
    """Reads or computes them: one, or one for each expert of a stack, each when it is due."""
    has_offsets: bool = False
    """Whether the matrices have offsets, float32; their codes are signed then."""
    float8: bool = False
    """Whether codes are E4M3 numbers, and no whole ones; the scheme has 8 bits then."""

    def __post_init__(self) -> None:
        scheme = self.scheme
        assert not self.has_offsets or (scheme.symmetric and scheme.storage_bits == 4), (
            "offsets go with signed codes of 4 bits"
        )
        assert not self.float8 or (scheme.symmetric and scheme.bits == 8), "E4M3 has 8 bits"
