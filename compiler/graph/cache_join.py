"""Recognize where keys or values join those of past tokens, as numbers or as codes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class CacheJoin:
    """One cache of a layer: its past, the new entries, and both together."""

    past: ir.Value
    """[batch, heads, past, width]."""
    new: ir.Value
    """[batch, heads, sequence, width], before it is quantized."""
    present: ir.Value
    scale: ir.Value | None
    """[] or [1, heads, 1, width], where the cache holds INT8 codes; None where it holds numbers."""


def cache_join(value: ir.Value) -> CacheJoin | None:
    """Return the cache that an attention reads as `value`; None where it reads none."""
    value, channels = _without(value, "Mul")
    codes, unit = _without(value, "DequantizeLinear")
    join = codes.producer()
    if join is None or join.op_type != "Concat" or len(join.inputs) != 2:
        return None
    past, new = join.inputs
    if past is None or new is None:
        return None
    if unit is None:
        return None if channels is not None else CacheJoin(past, new, codes, None)
    new, _ = _without(new, "QuantizeLinear")
    if channels is not None:
        new, _ = _without(new, "Div")
    return CacheJoin(past, new, codes, unit if channels is None else channels)


def _without(value: ir.Value, op_type: str) -> tuple[ir.Value, ir.Value | None]:
    """Return what an operator that made `value` read, and its scale; `value` if another did."""
    node = value.producer()
    if node is None or node.op_type != op_type or len(node.inputs) < 2 or node.inputs[0] is None:
        return value, None
    return node.inputs[0], node.inputs[1]
