"""List what TensorRT-RTX would refuse in a graph, before any time is spent on building it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from castline.compiler.targets.tensorrt.authors import Authors, maker
from castline.compiler.targets.tensorrt.hand_over import DECOMPOSABLE
from castline.compiler.targets.tensorrt.reading import (
    all_nodes,
    is_plugin,
    low_bit_codes,
    node_name,
    read_graph,
)
from castline.plugins.linear_w4a16.op import LINEAR_W4A16
from castline.plugins.op import DOMAIN

NATIVE_INT4_BLOCKS = (32, 64, 128)
NAMES_SHOWN = 8
_EXPANDED_BY_ACTIVATIONS = (
    "where activations are quantized, weights in groups or of 4 bits are expanded to 16 bits; "
    "weights of 8 bits with a scale per channel or per tensor stay int8"
)


@dataclass(frozen=True)
class Finding:
    """One node and what TensorRT-RTX makes of it."""

    node: str
    operator: str
    reason: str


def refusals(model: Path) -> tuple[Finding, ...]:
    """Return every node of the saved `model` that TensorRT-RTX is known to refuse, with the reason.

    Weights stay unread; zero points are read, since only all-zero ones are accepted. Attention in
    float32 counts as refused until `hand_over` has marked it.

    Raises:
        TargetError: the file or its weight file is missing, or is not ONNX.
    """
    return _findings(read_graph(model), REFUSALS)


def remarks(model: Path) -> tuple[Finding, ...]:
    """Return nodes of the saved `model` that may build, but not as well as one may expect.

    Raises:
        TargetError: the file or its weight file is missing, or is not ONNX.
    """
    return _findings(read_graph(model), REMARKS)


def grouped(findings: Iterable[Finding], made_by: Authors | None = None) -> tuple[str, ...]:
    """Return one line for each reason, naming the nodes it holds for (the first eight of many).

    The pass that made them is named where `made_by` tells it.
    """
    nodes: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        author = maker(finding.node, made_by or {})
        kind = finding.operator if author is None else f"{finding.operator}, made by {author}"
        nodes.setdefault((kind, finding.reason), []).append(finding.node)
    return tuple(f"{_listed(names)} ({kind}): {reason}" for (kind, reason), names in nodes.items())


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    hidden = len(names) - NAMES_SHOWN
    return f"{shown} and {hidden} more" if hidden > 0 else shown


Rule = Callable[[ir.Node, ir.Model], str | None]


def _findings(model: ir.Model, rules: tuple[Rule, ...]) -> tuple[Finding, ...]:
    return tuple(
        Finding(node_name(node), node.op_type, reason)
        for node in all_nodes(model)
        for reason in _reasons(node, model, rules)
    )


def _reasons(node: ir.Node, model: ir.Model, rules: tuple[Rule, ...]) -> Iterator[str]:
    for rule in rules:
        reason = rule(node, model)
        if reason is not None:
            yield reason


def _contrib_operator(node: ir.Node, model: ir.Model) -> str | None:
    if node.domain != "com.microsoft" or node.op_identifier() in model.functions:
        return None
    return (
        "operators of com.microsoft are ONNX Runtime's own; lower the graph to standard operators"
    )


def _our_operator(node: ir.Node, model: ir.Model) -> str | None:  # noqa: ARG001 - a Rule
    if node.domain != DOMAIN or LINEAR_W4A16.is_op_of(node):  # the parser takes its body
        return None
    if is_plugin(node):
        return None
    return (
        "no plugin computes it; activations are quantized at run time by token alone, and products "
        "of codes have packed weights"
    )


def _dynamic_int8(node: ir.Node, model: ir.Model) -> str | None:  # noqa: ARG001 - a Rule
    if node.domain != "" or node.op_type not in ("MatMulInteger", "DynamicQuantizeLinear"):
        return None
    return "activations quantized at run time are refused; use static scales or weight-only"


def _zero_point(node: ir.Node, model: ir.Model) -> str | None:  # noqa: ARG001 - a Rule
    if node.op_type not in ("DequantizeLinear", "QuantizeLinear") or len(node.inputs) < 3:
        return None
    zero_point = node.inputs[2]
    if zero_point is None:
        return None
    constant = ir.convenience.get_const_tensor(zero_point)
    if constant is None:
        return "its zero point is computed in the graph; only constant zeros are accepted"
    if constant.numpy().any():
        return (
            "its zero points are not zero; outside of products with 4-bit weights there is no way "
            "round that, so use a symmetric recipe for this target"
        )
    return None


def _uint4(node: ir.Node, model: ir.Model) -> str | None:  # noqa: ARG001 - a Rule
    names = [v.name for v in node.inputs if v is not None and v.dtype == ir.DataType.UINT4]
    if not names:
        return None
    return f"uint4 tensors are refused ({', '.join(map(str, names))}); store symmetric int4"


def _attention_outputs(node: ir.Node, model: ir.Model) -> str | None:  # noqa: ARG001 - a Rule
    if not _is_attention(node) or sum(bool(value.name) for value in node.outputs) <= 1:
        return None
    return "only one output is accepted; keep the cache Concat outside of the node"


def _float32_attention(node: ir.Node, model: ir.Model) -> str | None:  # noqa: ARG001 - a Rule
    query = node.inputs[0] if _is_attention(node) else None
    if query is None or query.dtype != ir.DataType.FLOAT:
        return None
    mark = node.attributes.get(DECOMPOSABLE)
    if mark is not None and mark.as_int() == 1:
        return None
    return f"no attention kernel computes in float32, and {DECOMPOSABLE} is not set"


def _int4_block(node: ir.Node, model: ir.Model) -> str | None:  # noqa: ARG001 - a Rule
    codes = low_bit_codes(node)
    if codes is None or codes.dtype != ir.DataType.INT4:
        return None
    size = node.attributes.get_int("block_size", 0)
    if size in NATIVE_INT4_BLOCKS:
        return None
    kind = f"int4 blocks of {size}" if size else "int4 without blocks"
    return f"{kind} may be expanded to 16 bits; blocks of 32, 64 or 128 stay int4"


def _expanded_by_activations(node: ir.Node, model: ir.Model) -> str | None:  # noqa: ARG001
    """Remark weights that are expanded since what they multiply is quantized, too."""
    if LINEAR_W4A16.is_op_of(node) and _is_dequantized(node.inputs[0]):
        return _EXPANDED_BY_ACTIVATIONS
    if node.op_type != "MatMul" or node.domain != "" or not _is_dequantized(node.inputs[0]):
        return None
    weight = node.inputs[1].producer() if node.inputs[1] is not None else None
    if weight is None or weight.op_type != "DequantizeLinear" or weight.inputs[0] is None:
        return None
    grouped = weight.attributes.get_int("block_size", 0) > 0
    if weight.inputs[0].dtype == ir.DataType.INT8 and not grouped:
        return None
    return _EXPANDED_BY_ACTIVATIONS


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def _is_attention(node: ir.Node) -> bool:
    return node.op_type == "Attention" and node.domain == ""


REFUSALS: tuple[Rule, ...] = (
    _contrib_operator,
    _our_operator,
    _dynamic_int8,
    _zero_point,
    _uint4,
    _attention_outputs,
    _float32_attention,
)
REMARKS: tuple[Rule, ...] = (_int4_block, _expanded_by_activations)
