"""Name linears as people do: what is alike in several blocks has one short name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from castline.compiler.plan.decisions import PlannedBlock, QuantPlan

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")  # the expert in "mlp.experts.7.w1"


def linear_kinds(plan: QuantPlan) -> dict[str, str]:
    """Return weight name -> kind, such as "q_proj": the shortest end of its path that is its own.

    Two modules of one last name, as encoders have, are told apart by as much of the path as it
    takes: "attention.output.dense", "intermediate.dense".
    """
    paths = {
        linear.name: _NUMBER.sub("*", within(block, linear.name))
        for block in plan.blocks
        for linear in block.linears
    }
    shared = Counter(end for path in set(paths.values()) for end in _ends(path))
    return {
        name: next((end for end in _ends(path) if shared[end] == 1), path)
        for name, path in paths.items()
    }


def within(block: PlannedBlock, weight: str) -> str:
    """Return the path of a linear in its block: "self_attn.q_proj"."""
    return weight.removeprefix(block.name + ".").removesuffix(".weight")


def _ends(path: str) -> Iterable[str]:
    """Yield "q_proj", then "self_attn.q_proj"."""
    parts = path.split(".")
    for start in range(len(parts) - 1, -1, -1):
        yield ".".join(parts[start:])
