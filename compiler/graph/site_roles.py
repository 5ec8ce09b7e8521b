"""Say what reads a site: attention, the first linears of a feed-forward part, or its last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeAlias

import onnx_ir as ir

from castline.compiler.graph.folds.site import Site

Role: TypeAlias = Literal["attention", "feed-forward", "down"]

_NORMS = ("RMSNormalization", "LayerNormalization")
_ATTENTION = "Attention"
_LINEAR = "linear"


def site_roles(model: ir.Model, sites: Iterable[Site]) -> dict[str, Role]:
    """Return {value of a site: what reads it}; what attention answers with is left out.

    Told by where the products go before the next norm: into attention, into another linear through
    an activation ("feed-forward"), or into neither ("down"). One norm that feeds attention and more
    is attention's. A product of activations with activations counts as attention.
    """
    nodes = {node.name: node for node in model.graph}
    roles: dict[str, Role] = {}
    for site in sites:
        reached: set[str] = set()
        readers = [nodes[one.node] for one in site.consumers]
        for node in readers:
            reached |= _reached(node.outputs, _users)
        if _ATTENTION in reached:
            roles[site.value] = "attention"
        elif _LINEAR in reached:
            roles[site.value] = "feed-forward"
        elif _ATTENTION not in _reached([readers[0].inputs[0]], _makers):
            roles[site.value] = "down"
    return roles


def _reached(
    values: Iterable[ir.Value | None], following: Callable[[ir.Value], Iterator[ir.Node]]
) -> set[str]:
    """Return the kinds of node that are reached without passing a linear, attention or a norm."""
    pending = [value for value in values if value is not None]
    seen: set[ir.Node] = set()
    kinds = set()
    while pending:
        for node in following(pending.pop()):
            if node in seen:
                continue
            seen.add(node)
            kind = _kind(node)
            if kind is not None:
                kinds.add(kind)
                continue
            onward = node.outputs if following is _users else node.inputs
            pending.extend(value for value in onward if value is not None)
    return kinds


def _kind(node: ir.Node) -> str | None:
    """Return what a node that ends a way is; None for one that values pass through."""
    if node.op_type == "MatMul":
        return _LINEAR if _is_stored(node.inputs[1]) else _ATTENTION
    if node.op_type == _ATTENTION:
        return _ATTENTION
    return "norm" if node.op_type in _NORMS else None


def _is_stored(weight: ir.Value | None) -> bool:
    """Whether a factor is a weight, as it is or transposed."""
    producer = weight.producer() if weight is not None else None
    if producer is not None and producer.op_type == "Transpose":
        weight = producer.inputs[0]
    return weight is not None and weight.is_initializer()


def _users(value: ir.Value) -> Iterator[ir.Node]:
    yield from (use.node for use in value.uses())


def _makers(value: ir.Value) -> Iterator[ir.Node]:
    producer = value.producer()
    if producer is not None:
        yield producer
