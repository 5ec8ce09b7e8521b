"""Judge by size whether the low-bit weights of an engine stayed low-bit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from castline.compiler.targets.tensorrt.reading import (
    all_nodes,
    low_bit_codes,
    packed_weight,
    read_graph,
)

KEPT_SHARE = 0.5
# What comes with the weights (kernels, descriptions): 0.2 MB for a matrix, 52 MB for 30 layers.
ENGINE_OVERHEAD = 64 * 2**20


@dataclass(frozen=True)
class WeightBytes:
    """What the constants of a graph occupy: as stored, and with low-bit weights expanded."""

    stored: int
    expanded: int


@dataclass(frozen=True)
class WeightJudgement:
    """Whether low-bit weights stayed low-bit in an engine, and the sizes that say so.

    `kept` is None where there are no low-bit weights, or too few for the size to tell. `held` is
    what the engine's weights take, or the whole engine where TensorRT did not report it.
    """

    kept: bool | None
    held: int
    weights: WeightBytes
    how: str


def weight_bytes(model: Path) -> WeightBytes:
    """Return the bytes of the initializers of `model`, weights unread.

    Expanded, a weight that is dequantized, or packed for a plugin, has the width of what its node
    puts out.

    Raises:
        TargetError: the file or its weight file is missing, or is not ONNX.
    """
    graph_model = read_graph(model)
    stored = {
        value.name: value.const_value.nbytes
        for value in graph_model.graph.initializers.values()
        if value.const_value is not None
    }
    expanded = dict(stored)
    for node in all_nodes(graph_model):
        packed = packed_weight(node)
        weight = low_bit_codes(node) if packed is None else packed
        if weight is None or weight.name not in stored or weight.const_value is None:
            continue
        size = weight.const_value.size
        if packed is not None:
            size = node.attributes.get_int("k", 0) * node.attributes.get_int("n", 0)
        result = node.outputs[0].dtype or ir.DataType.FLOAT16
        expanded[weight.name] = int(size * result.itemsize)
    return WeightBytes(stored=sum(stored.values()), expanded=sum(expanded.values()))


def judge_weights(
    engine_bytes: int, weights: WeightBytes, log: Path, *, stripped: bool = False
) -> WeightJudgement:
    """Return whether an engine of `engine_bytes` holds its low-bit weights as they were.

    TensorRT says in the build log how much its weights take; where it does not, the size of the
    engine stands for them, which is never less. What that is smaller than the expanded weights is
    saved for certain; half of what could be saved counts as kept.
    """
    if stripped:
        return WeightJudgement(None, 0, weights, "the engine was stripped of its weights")
    possible = weights.expanded - weights.stored
    if possible <= 0:
        return WeightJudgement(None, engine_bytes, weights, "the graph has no low-bit weights")
    reported = _reported_weights(log)
    held = engine_bytes if reported is None else reported
    what = "engine has" if reported is None else "engine's weights have"
    how = (
        f"the {what} {held:,} bytes; the constants of the graph have {weights.stored:,} bytes as "
        f"stored and {weights.expanded:,} bytes expanded"
    )
    if weights.expanded - held >= KEPT_SHARE * possible:
        return WeightJudgement(True, held, weights, how)
    if reported is None and possible < ENGINE_OVERHEAD:
        return WeightJudgement(None, held, weights, f"{how}: too close to tell")
    return WeightJudgement(False, held, weights, how)


def _reported_weights(log: Path) -> int | None:
    reports = re.findall(r"Total Weights Memory: (\d+) bytes", log.read_text(errors="replace"))
    return max(map(int, reports)) if reports else None
