"""Put the codes of a quantized checkpoint into its float graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from castline.compiler.graph.linears import linears
from castline.compiler.importing.imported import Imported
from castline.compiler.passes.quantize_activations import QuantizeActivations
from castline.compiler.passes.quantize_activations_float8 import QuantizeActivationsFloat8
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.passes.transform_inputs import TransformInputs
from castline.exporters.readers.tensors import named

_LISTED = 4  # names that a note spells out before it only counts


def place_codes(model: ir.Model, stored: Imported) -> tuple[str, ...]:
    """Rewrite the float graph of a model in place: codes, scales and zero-points as stored.

    Returns a note for what stays in float and for what is carried by its values alone.
    """
    TransformInputs(stored.transforms)(model)
    values = {name: f"only its values are carried: {why}" for name, why in stored.by_value.items()}
    quantized = QuantizeWeights(None, kept=values, given=stored.given)(model)
    notes, placed = quantized.notes(None), set(quantized.names)
    if any(linear.is_head and linear.name in stored.given for linear in linears(model)):
        head = QuantizeWeights(None, head=True, given=stored.given)(model)
        placed.update(head.names)
    unplaced = [name for name in stored.given if name not in placed]
    assert not stored.transforms.keys() & unplaced, "who reads what is transformed has its codes"
    if stored.activations:
        notes += QuantizeActivations(stored.activations)(model).notes()
    if stored.float8_activations:
        QuantizeActivationsFloat8(stored.float8_activations)(model)
    return (*notes, *_unplaced(unplaced), *_in_float(stored))


def _unplaced(names: list[str]) -> Iterator[str]:
    if names:
        yield (
            f"no linear of the graph multiplies by {named(names, _LISTED)}, so that the values of "
            "the codes are carried, and not the codes"
        )


def _in_float(stored: Imported) -> Iterator[str]:
    for reason, count in Counter(stored.float_activations.values()).items():
        subject = "linear reads" if count == 1 else "linears read"
        yield f"{count} {subject} float where the checkpoint has codes of 8 bits: {reason}"
