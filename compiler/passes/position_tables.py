"""Fold what a graph computes from positions alone into a table of all positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.evaluate import Array, evaluate, sources


def depends_on_positions_alone(value: ir.Value, position_ids: ir.Value) -> bool:
    """Return whether a table of positions can stand for `value`."""
    return sources(value) == {position_ids}


def position_table(value: ir.Value, position_ids: ir.Value, positions: int) -> Array:
    """Return `value` for positions 0 .. `positions` - 1, [positions, width] float32.

    `value` is [batch, sequence, width] and depends on `position_ids` and constants only. What is
    cast to half precision on the way is taken before the cast.
    """
    source = value.producer()
    if source is not None and source.op_type == "Cast" and value.dtype != ir.DataType.FLOAT:
        before = source.inputs[0]
        assert before is not None, "Cast has an input"
        value = before
    ids = np.arange(positions, dtype=np.int64)[None]
    return np.asarray(evaluate(value, {position_ids: ids})[0], np.float32)
