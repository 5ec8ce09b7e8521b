"""Sign the nodes that a pass makes, so that whoever refuses one later can name the pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

AUTHOR = "castline.pass"
"""Where the metadata of a node names the pass that made it; the float graph's nodes have none."""


@contextmanager
def made_by(model: ir.Model, author: str) -> Iterator[None]:
    """Sign with `author` every node that is new in the graph when the body ends."""
    before = set(ir.traversal.RecursiveGraphIterator(model.graph))
    yield
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node not in before:
            node.metadata_props.setdefault(AUTHOR, author)
