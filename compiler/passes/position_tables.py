"""Fold what a graph computes from positions alone into a table of all positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.evaluate import evaluate, sources
from castline.compiler.quant.arrays import Array

_ROUNDING = 1e-5  # of cos and sin; other frequencies move them by far more at some position


def depends_on_positions_alone(value: ir.Value, position_ids: ir.Value, positions: int) -> bool:
    """Return whether a table of positions can stand for `value` [batch, sequence, width].

    A row must follow from its own position. Scalings that change their frequencies with the
    longest position of a batch (longrope, dynamic) are told by rows that change with their company.
    """
    if sources(value) != {position_ids}:
        return False
    ids = np.append(2 ** np.arange((positions - 1).bit_length()), positions - 1)
    together = _rows(value, position_ids, ids)
    alone = [_rows(value, position_ids, ids[i : i + 1]) for i in range(len(ids))]
    return bool(np.allclose(np.concatenate(alone), together, rtol=0, atol=_ROUNDING))


def position_table(value: ir.Value, position_ids: ir.Value, positions: int) -> Array:
    """Return `value` for positions 0 .. `positions` - 1, [positions, width] float32.

    `value` is [batch, sequence, width] and depends on positions alone. What is cast to half
    precision on the way is taken before the cast.
    """
    return _rows(value, position_ids, np.arange(positions))


def _rows(value: ir.Value, position_ids: ir.Value, ids: Array) -> Array:
    source = value.producer()
    if source is not None and source.op_type == "Cast" and value.dtype != ir.DataType.FLOAT:
        before = source.inputs[0]
        assert before is not None, "Cast has an input"
        value = before
    feeds = {position_ids: ids.astype(np.int64)[None]}
    return np.asarray(evaluate(value, feeds)[0], np.float32)
