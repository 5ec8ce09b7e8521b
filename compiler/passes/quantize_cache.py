"""Keep keys and values in INT8: new ones are quantized, and all are dequantized to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

from castline.compiler.passes.initializers import constant
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.plan.decisions import PlannedCache
from castline.compiler.quant.arrays import Array
from castline.exporters.names import SLOTS, past_name, present_name

_HEADS, _WIDTH = 1, 3  # axes of [batch, heads, tokens, width]


@dataclass
class QuantizedCaches:
    """What a run of the pass did, for the outcome."""

    names: list[str] = field(default_factory=list)
    """The cache inputs that are INT8 now."""

    left: dict[str, str] = field(default_factory=dict)
    """Cache inputs that stay in float -> why."""

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for every reason."""
        return tuple(
            f"{count} {'cache stays' if count == 1 else 'caches stay'} in float: {reason}"
            for reason, count in Counter(self.left.values()).items()
        )


@dataclass(frozen=True)
class QuantizeCache:
    """Inputs past_key_values.* and outputs present.* become codes, value / scale rounded.

    The tokens of a step attend to themselves through the codes, too: what a token sees of another
    does not depend on how a text is cut into steps.
    """

    caches: Mapping[int, PlannedCache]
    """Index of the layer -> its scales."""

    def __call__(self, model: ir.Model) -> QuantizedCaches:
        """Rewrite `model` in place."""
        done = QuantizedCaches()
        inputs = {value.name: value for value in model.graph.inputs}
        for layer, planned in self.caches.items():
            for slot, scale in zip(SLOTS, (planned.key, planned.value), strict=True):
                name = past_name(layer, slot)
                if name not in inputs:
                    done.left[name] = "the graph has no such cache"
                    continue
                reason = _declined(inputs[name], present_name(layer, slot), scale)
                if reason:
                    done.left[name] = reason
                else:
                    _quantize(model.graph, inputs[name], scale)
                    done.names.append(name)
        return done


def _declined(past: ir.Value, present: str, scale: Array) -> str | None:
    if past.dtype == ir.DataType.INT8:
        return "it is quantized already"
    join = _join(past)
    if join is None or join.outputs[0].name != present or join.inputs[0] is not past:
        return "more happens to it than that new tokens are joined"
    assert past.dtype is not None, "inputs are typed"
    least = float(ml_dtypes.finfo(past.dtype.numpy()).smallest_normal)
    if scale.min() < least:
        return f"its scale {scale.min():.1g} is too small for {past.dtype.name}"
    return None


def _join(past: ir.Value) -> ir.Node | None:
    """Return the node that joins new tokens; None unless it alone reads what is in the cache."""
    users = [use.node for use in past.uses() if use.node.op_type != "Shape"]
    return users[0] if len(users) == 1 and users[0].op_type == "Concat" else None


def _quantize(graph: ir.Graph, past: ir.Value, scale: Array) -> None:
    join = _join(past)
    assert join is not None, "checked before"
    new, present, float_type = join.inputs[1], join.outputs[0], past.dtype
    assert new is not None, "Concat joins two values"
    assert float_type is not None, "inputs are typed"
    readers = [(use.node, use.idx) for use in present.uses() if use.node.op_type != "Shape"]
    writer = NodeWriter(graph, str(join.name), join)
    zero = constant(graph, f"{past.name}.zero_point", np.array(0, np.int8))
    channels = _channels(graph, past, scale, float_type)
    one_scale = np.array(scale.item() if channels is None else 1, float_type.numpy())
    grid = [constant(graph, f"{past.name}.scale", one_scale), zero]
    if channels is not None:
        new = writer.add("Div", [new, channels])
    join.replace_input_with(1, writer.add("QuantizeLinear", [new, *grid]))
    restored = [ir.node("DequantizeLinear", [present, *grid], name=f"{join.name}/DequantizeLinear")]
    if channels is not None:
        restored.append(ir.node("Mul", [restored[0].outputs[0], channels], name=f"{join.name}/Mul"))
    graph.insert_after(join, restored)
    for node in restored:
        value = node.outputs[0]
        value.name = f"{node.name}_output_0"
        value.shape, value.type = present.shape, ir.TensorType(float_type)
    for node, place in readers:
        node.replace_input_with(place, restored[-1].outputs[0])
    past.type = present.type = ir.TensorType(ir.DataType.INT8)


def _channels(
    graph: ir.Graph, past: ir.Value, scale: Array, float_type: ir.DataType
) -> ir.Value | None:
    """Return a scale for each channel, [1, heads, 1, width]; None where all share one."""
    if scale.size == 1:
        return None
    heads, width = scale.shape
    assert past.shape is not None, "inputs have shapes"
    assert (past.shape[_HEADS], past.shape[_WIDTH]) == (heads, width), "a scale for each channel"
    values = scale.reshape(1, heads, 1, width).astype(float_type.numpy())
    return constant(graph, f"{past.name}.channel_scale", values)
