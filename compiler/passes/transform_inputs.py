"""Transform what linears read: multiply its channels, put them into another order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import constant
from castline.compiler.passes.linear_inputs import change_inputs
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.quant.arrays import Array


@dataclass(frozen=True, eq=False)
class InputTransform:
    """What is done to a value [..., K] before a linear multiplies it: times `factor`, then `order`.

    A linear whose weight is [K, N] is unchanged where the weight becomes (weight / factor)[order].
    """

    factor: Array | None = None
    """Float [K], finite."""
    order: Array | None = None
    """int64 [K]: the channel that comes at each place."""

    @property
    def content(self) -> tuple[bytes, bytes]:
        """What two transforms of one length have in common if they do the same."""
        factor, order = self.factor, self.order
        return (
            b"" if factor is None else factor.astype(np.float64).tobytes(),
            b"" if order is None else order.tobytes(),
        )


@dataclass(frozen=True)
class TransformInputs:
    """What several linears read, transformed alike, is transformed once.

    The pass leaves the weights as they are: whoever asks for it gives codes, or folds.
    """

    linears: Mapping[str, InputTransform]
    """Name of the weight in the checkpoint -> what is done to what it multiplies."""

    def __call__(self, model: ir.Model) -> tuple[str, ...]:
        """Rewrite `model`, whose weights are in float, in place.

        Returns the names for which the graph has no linear.
        """
        return change_inputs(
            model,
            self.linears,
            lambda transform: transform.content,
            "transformed_input",
            partial(_written, model.graph),
        )


def _written(
    graph: ir.Graph,
    writer: NodeWriter,
    x: ir.Value,
    linear: str,
    float_type: ir.DataType,
    transform: InputTransform,
) -> ir.Value:
    value = x
    if transform.factor is not None:
        factor = transform.factor.astype(float_type.numpy())
        value = writer.add("Mul", [value, constant(graph, f"{linear}.input_factor", factor)])
        value.shape, value.type = x.shape, ir.TensorType(float_type)
    if transform.order is not None:
        order = constant(graph, f"{linear}.input_order", transform.order.astype(np.int64))
        value = writer.add("Gather", [value, order], {"axis": -1})
    return value
