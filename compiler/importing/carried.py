"""Count what a graph changes of the codes that a checkpoint stores, and what that costs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from castline.compiler.importing.held_weights import held_weights
from castline.compiler.importing.imported import quantized_matrix
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.round_to_nearest import QuantizedMatrix, dequantize
from castline.compiler.quant.sqnr import decibels
from castline.errors import TargetError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.stored import StoredMatrix
from castline.progress import Progress, SilentProgress

_FLOAT32_ROUNDING = 1e-6  # of the step: sums of few float32 numbers, in any order
_E4M3_STEP = 2.0**-3  # of the number, which has three bits of fraction
_E4M3_LEAST = 2.0**-6  # the least number that has them all


@dataclass
class Carried:
    """What became of the codes of a checkpoint."""

    codes: int = 0
    """All there are."""
    changed: int = 0
    """Those whose weight is off by half a step or more."""
    rounded: int = 0
    """Those whose weight is off by less, as by a scale that was cast."""
    factors: int = 0
    """Scales of what is read that the graph's type rounds."""
    signal: float = 0.0
    noise: float = 0.0
    """Sums of the squares of weights, and of what they are off by."""
    linears: list[str] = field(default_factory=list)
    """Names of the weights with such codes."""

    @property
    def words(self) -> str:
        """How many codes changed and what it cost, as a sentence; or that none did."""
        if self.exact:
            return f"all {self.codes:,} stored codes are carried over unchanged"
        if np.isnan(self.sqnr_db):
            return f"all {self.codes:,} stored codes gave way to ones that were searched anew"
        factors = f", {self.factors:,} scales of inputs are rounded" if self.factors else ""
        return (
            f"of {self.codes:,} stored codes {self.changed:,} change and {self.rounded:,} stand "
            f"for rounded weights (signal to noise {self.sqnr_db:.1f} dB){factors}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """`words` for the outcome, where there are codes."""
        return (self.words,) if self.codes else ()

    def to_json(self) -> dict[str, object]:
        """Return the figures for report.json."""
        return {
            "codes": self.codes,
            "changed": self.changed,
            "rounded": self.rounded,
            "rounded_input_scales": self.factors,
            "sqnr_db": self.sqnr_db,
        }

    @property
    def exact(self) -> bool:
        """Whether every weight, and every scale of what is read, is what the checkpoint stores."""
        return not (self.changed or self.rounded or self.factors)

    @property
    def sqnr_db(self) -> float:
        """The weights by what they are off by, in dB; infinite if exact, NaN if not known."""
        if self.exact:
            return np.inf
        return np.nan if np.isnan(self.noise) else decibels(self.signal, self.noise)

    def add(self, name: str, stored: Array, held: Array, step: Array) -> None:
        """Compare float32 [K, N]; `step` broadcasts to it, the distance of neighbouring codes."""
        off = np.abs(held - stored)
        changed = int(np.count_nonzero((off >= step / 2) & (off > 0)))
        rounded = int(np.count_nonzero(off > _FLOAT32_ROUNDING * np.maximum(step, np.abs(stored))))
        self.codes += stored.size
        self.changed += changed
        self.rounded += max(0, rounded - changed)
        self.signal += float(np.square(stored, dtype=np.float64).sum())
        self.noise += float(np.square(off, dtype=np.float64).sum())
        if changed or rounded:
            self.linears.append(name)


def carried_codes(
    model: ir.Model,
    checkpoint: Checkpoint,
    names: Collection[str],
    *,
    transformed: bool,
    progress: Progress | None = None,
) -> Carried:
    """Compare the weights `names`, as a lowered graph holds them, with what is stored of them.

    One matrix is held at a time. `transformed` says whether the graph transforms what is read, so
    that the columns are those of the codes. What the graph does not multiply by is no weight of a
    linear, and is left out. Raises TargetError where the graph's type cannot hold a scale.
    """
    progress = progress or SilentProgress()
    held = held_weights(model, names)
    carried = Carried()
    with progress.stage("Comparing codes with the stored ones", len(held)) as advance:
        for name, matrices in held.items():
            for stored, weights in zip(
                checkpoint.matrices(name), _finite(name, matrices()), strict=True
            ):
                matrix = quantized_matrix(stored)
                wanted = dequantize(matrix)
                step = _step(matrix, wanted)
                if not transformed:
                    wanted, step = stored.weight().T, _untransformed(step, stored)
                carried.add(name, wanted, weights, step)
            advance(1)
    return carried


def searched_anew(checkpoint: Checkpoint) -> Carried:
    """Return that all codes changed, at a cost that their weights do not tell."""
    names = checkpoint.quantized
    codes = sum(checkpoint.tensors[name].size for name in names)
    return Carried(codes, changed=codes, linears=list(names), noise=np.nan)


def _step(matrix: QuantizedMatrix, weights: Array) -> Array:
    """Return the distance of neighbouring codes at each weight."""
    scales = np.abs(matrix.scales.astype(np.float32)).repeat(matrix.group, axis=0)
    if np.issubdtype(matrix.codes.dtype, np.integer):
        return scales
    return np.maximum(np.abs(weights), scales * np.float32(_E4M3_LEAST)) * np.float32(_E4M3_STEP)


def _untransformed(step: Array, stored: StoredMatrix) -> Array:
    """Return steps [K, N] of a weight whose input is not transformed."""
    steps = np.array(np.broadcast_to(step, stored.codes.T.shape))
    if stored.order is not None:
        steps[stored.order] = steps.copy()
    if stored.input_scale is not None:
        steps *= np.abs(stored.input_scale.astype(np.float32))[:, None]
    return steps


def _finite(name: str, matrices: Iterator[Array]) -> Iterator[Array]:
    """Yield the matrices; raise for one with a scale that was cast to infinity."""
    while True:
        with np.errstate(invalid="ignore"):  # infinity times a code of zero
            weights = next(matrices, None)
        if weights is None:
            return
        if not np.isfinite(weights).all():
            raise TargetError(
                f"{name}: its stored scales are beyond the largest number of the graph's type. "
                "Use --dtype float32 or bfloat16."
            )
        yield weights
