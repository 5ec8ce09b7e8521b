"""Recognize how a decoder counts the tokens in its cache, and the places of the new ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from castline.compiler.quant.arrays import Array
from castline.exporters.names import ATTENTION_MASK, INPUT_IDS

_LENGTH = (1, 2)  # Shape's start and end that give the length of [batch, length]


@dataclass
class CachedLength:
    """The values that say how long the cache is, wherever a graph reads them."""

    totals: list[ir.Value] = field(default_factory=list)
    """int64, [] or [1]: cached and new tokens, added up."""

    places: list[ir.Value] = field(default_factory=list)
    """int64 [1, 1, sequence, 1]: where the new tokens stand, counted from the first cached one."""

    steps: list[ir.Value] = field(default_factory=list)
    """int64 [sequence]: 0, 1, 2, ... for each of `places`."""


def cached_length(graph: ir.Graph) -> CachedLength | str:
    """Return how `graph` counts cached tokens, or why that is not recognized.

    The exporter counts them as the length of the attention mask less that of the token ids.
    """
    inputs = {value.name: value for value in graph.inputs}
    mask, tokens = inputs.get(ATTENTION_MASK), inputs.get(INPUT_IDS)
    if mask is None or tokens is None:
        return f"it has no {ATTENTION_MASK} or no {INPUT_IDS}"
    found = CachedLength()
    counts = [v for length in _lengths(mask) for v in _differences(length, tokens)]
    if not counts:
        return f"it does not count cached tokens by its {ATTENTION_MASK}"
    for count in counts:
        for node, index in _uses(count):
            reason = _read(node, node.inputs[1 - index] if index < 2 else None, tokens, found)
            if reason is not None:
                return reason
    return found


def _read(
    node: ir.Node, other: ir.Value | None, tokens: ir.Value, found: CachedLength
) -> str | None:
    """Sort one reader of the count into `found`; return what is wrong with it."""
    unknown = f"{node.name} ({node.op_type}) reads the number of cached tokens"
    if node.op_type != "Add" or other is None:
        return unknown
    if _is_length_of(other, tokens):
        found.totals.append(node.outputs[0])
        return None
    made = other.producer()
    if made is None or made.op_type != "Range":
        return unknown
    places = list(_four_axes(node.outputs[0]))
    if None in places:
        return f"{node.name} gives places of tokens that are read in an unknown form"
    found.places += [place for place in places if place is not None]
    found.steps += [other] * len(places)
    return None


def _lengths(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the values [1] that hold the length of `value`, [batch, length]."""
    for node, _ in value.uses():
        if node.op_type == "Shape" and _span(node) == _LENGTH:
            yield node.outputs[0]


def _span(shape: ir.Node) -> tuple[int, int]:
    return shape.attributes.get_int("start", 0), shape.attributes.get_int("end", -1)


def _differences(length: ir.Value, tokens: ir.Value) -> Iterator[ir.Value]:
    for node, index in _uses(length):
        if node.op_type == "Sub" and index == 0 and _is_length_of(node.inputs[1], tokens):
            yield node.outputs[0]


def _uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yield who reads `value`, and who reads it as a scalar."""
    for node, index in value.uses():
        if node.op_type == "Squeeze" and index == 0:
            yield from _uses(node.outputs[0])
        else:
            yield node, index


def _is_length_of(value: ir.Value | None, tokens: ir.Value) -> bool:
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Squeeze":
        return _is_length_of(node.inputs[0], tokens)
    return (
        node is not None
        and node.op_type == "Shape"
        and _span(node) == _LENGTH
        and node.inputs[0] is tokens
    )


def _four_axes(places: ir.Value) -> Iterator[ir.Value | None]:
    """Yield `places` [sequence] in the form [1, 1, sequence, 1], or None where it is another."""
    for node, _ in places.uses():
        if _axes(node) != [0, 1]:
            yield None
            continue
        for last, _ in node.outputs[0].uses():
            yield last.outputs[0] if _axes(last) in ([3], [-1]) else None


def _axes(node: ir.Node) -> list[int] | None:
    if node.op_type != "Unsqueeze" or node.inputs[1] is None:
        return None
    tensor = ir.convenience.get_const_tensor(node.inputs[1])
    if tensor is None:
        return None
    axes: Array = tensor.numpy()
    return [int(axis) for axis in axes.ravel()]
