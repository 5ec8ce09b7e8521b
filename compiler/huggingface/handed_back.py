"""Decide what each tensor of the written checkpoint is: codes, a folded parameter, or as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.linears import linears
from castline.compiler.huggingface.packed_linear import PackedLinear
from castline.compiler.huggingface.storing import stored_linears
from castline.compiler.huggingface.weight_files import Unit
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import quantize
from castline.compiler.quant.scheme import GroupSize, WeightScheme
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.promise import PromisedWeight, Scaling
from castline.exporters.readers.tensors import TensorSpec, named

_DEQUANTIZED = (
    "transformers turns the codes into weights as it loads them, which config.json asks for, since "
    "it cannot run these packed; vLLM keeps them"
)
_LISTED = 4  # names that a note spells out before it only counts
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class HandedBack:
    """A checkpoint with all that was decided for it."""

    checkpoint: Checkpoint
    """Under the names of the model's own parameters."""
    schemes: Mapping[str, WeightScheme]
    """Name of a weight -> how it is quantized; the others stay in float."""
    given: Mapping[str, GivenCodes]
    """Name of a weight -> its codes; the others are rounded to the nearest."""
    scalings: Mapping[str, tuple[Scaling, ...]]
    """Name of a parameter -> what is folded into it, in order."""
    float_type: ir.DataType
    """Of scales, and of the weights that are rounded."""
    recast: bool
    """Whether all that is not quantized gets that type, too; otherwise it keeps its own."""
    exact: bool
    """Whether the given scales must not be rounded: the checkpoint stores them."""
    derived: bool
    """Whether linears of a class of the model's own are quantized."""
    ignored: tuple[str, ...]
    """Paths of the linears that are not."""

    @cached_property
    def packed(self) -> dict[str, PackedLinear]:
        """Name of a quantized weight -> how it is stored. Raises as `stored_linears`."""
        scale_type = np.dtype(self.float_type.numpy())
        tensors = self.checkpoint.tensors
        return stored_linears(
            self.schemes, tensors, scale_type, one_way=self.dequantized, exact=self.exact
        )

    @property
    def dequantized(self) -> bool:
        """Whether transformers 5 can only load the codes as the weights that they stand for.

        For packed zero-points it makes a place of another shape, and a linear of the model's own
        class reads its weight before compressed-tensors 0.20 has unpacked it.
        """
        return self.derived or any(not scheme.symmetric for scheme in self.schemes.values())

    def units(self) -> list[Unit]:
        """Return every tensor to write; nothing is read before it is asked for."""
        packed = self.packed
        return [
            self._codes(name, packed[name]) if name in packed else self._parameter(name, spec)
            for name, spec in self.checkpoint.tensors.items()
        ]

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for all that is not stored as it was asked for."""
        widened: Counter[tuple[int, int]] = Counter()
        regrouped: Counter[tuple[GroupSize, int, GroupSize]] = Counter()
        for name, linear in self.packed.items():
            scheme = self.schemes[name]
            widened[scheme.bits, linear.bits] += scheme.bits != linear.bits
            regrouped[scheme.group_size, linear.k, scheme.group_for(linear.k)] += 1
        notes = [
            f"codes of {bits} bits are stored in {stored}, which transformers and vLLM read, in "
            f"{count} linears"
            for (bits, stored), count in widened.items()
            if count
        ]
        notes += [
            f"group {asked} does not divide K = {k}: {_words(group)} used for {count} linears"
            for (asked, k, group), count in regrouped.items()
            if asked != group
        ]
        split = [
            linear.group
            for name, linear in self.packed.items()
            if linear.group != self.schemes[name].group_for(linear.k)
        ]
        if split:
            notes.append(
                f"{len(split)} linears are stored in groups of {split[0]}, their scales repeated"
            )
        by_value = [name for name in self.checkpoint.quantized if name not in self.packed]
        if self.exact and by_value:
            notes.append(
                f"{named(by_value, _LISTED)}: only the values of the codes are carried, in float"
            )
        if self.dequantized:
            notes.append(_DEQUANTIZED)
        return tuple(notes)

    def _codes(self, name: str, linear: PackedLinear) -> Unit:
        def compute() -> Mapping[str, Array]:
            if name in self.given:
                (matrix,) = self.given[name].matrices()
                return linear.tensors(matrix)
            weights = self._promised(name, self.float_type).numpy().T
            return linear.tensors(quantize(weights, self.schemes[name], linear.scale_type))

        return Unit(linear.specs, compute)

    def _parameter(self, name: str, spec: TensorSpec) -> Unit:
        stored = ir.DataType.from_numpy(spec.dtype)
        if stored not in _FLOATS:
            return Unit({name: spec}, _of_one(name, partial(self.checkpoint.read, name)))
        dtype = self.float_type if self.recast else stored
        written = TensorSpec(spec.shape, np.dtype(dtype.numpy()))
        return Unit({name: written}, _of_one(name, self._promised(name, dtype).numpy))

    def _promised(self, name: str, dtype: ir.DataType) -> PromisedWeight:
        # As the graph has it, so that what is rounded to is the same there.
        scalings = self.scalings.get(name, ())
        return PromisedWeight(self.checkpoint, name, dtype, scalings=scalings)


def schemes_of(
    model: ir.Model,
    scheme: WeightScheme | None,
    kept: Mapping[str, str],
    given: Mapping[str, GivenCodes],
) -> dict[str, WeightScheme]:
    """Return {weight: how it is quantized} for the linears of a float graph's layers.

    `scheme` is for those that have no given codes and are not kept; None leaves them in float.
    """
    layers = [linear.name for linear in linears(model) if not linear.is_head]
    found = {name: given[name].scheme for name in layers if name in given}
    if scheme is not None:
        found |= {name: scheme for name in layers if name not in given and name not in kept}
    return found


def _of_one(name: str, read: Callable[[], Array]) -> Callable[[], Mapping[str, Array]]:
    return lambda: {name: read()}


def _words(group: GroupSize) -> str:
    return f"group {group}" if isinstance(group, int) else "one scale per channel"
