"""Look up which pass made a node of a saved model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from castline.compiler.passes.authorship import AUTHOR
from castline.compiler.targets.tensorrt.reading import read_proto

Authors: TypeAlias = Mapping[str, str]
"""Who made a node, by the node's name; nodes of the checkpoint's own graph are not in it."""


def authors(model: Path) -> Authors:
    """Return the pass that made each node of a saved `model` that was not in the float graph.

    The copy that is handed over does not tell, so the model itself is asked.

    Raises:
        TargetError: as `read_proto`.
    """
    return {
        node.name: entry.value
        for node in read_proto(model).graph.node
        for entry in node.metadata_props
        if entry.key == AUTHOR
    }


def maker(node: str, made_by: Authors) -> str | None:
    """Return the pass that made a node; one that came out of a function has that one's name first.

    An inlined node is named "caller/body".
    """
    name = node
    while name not in made_by:
        name, slash, _ = name.rpartition("/")
        if not slash:
            return None
    return made_by[name]
