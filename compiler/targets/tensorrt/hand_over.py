"""Hand a saved model over to TensorRT: add what only TensorRT reads, leave the weights alone."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, InlinePass

from castline.compiler.targets.last_logits import keep_last_token
from castline.compiler.targets.options import LogitsOf
from castline.compiler.targets.surgery import graph_from_proto, proto_from_graph
from castline.compiler.targets.tensorrt.float_logits import widen_logits
from castline.compiler.targets.tensorrt.reading import external_files, read_proto
from castline.exporters.names import WRITE_INDICES
from castline.plugins.catalogue import PLUGINS
from castline.plugins.op import DOMAIN

# TensorRT's ONNX parser reads this attribute into IAttention::setDecomposable. It is no part of the
# ONNX operator, so it is written into TensorRT's own copy only.
DECOMPOSABLE = "TRT_decomposable"


def hand_over(model: Path, folder: Path, *, logits: LogitsOf = "all") -> Path:
    """Return the file for TensorRT: `model` itself, or a copy in `folder` where edits are due.

    Nodes of Castline's ops that no plugin computes become what they are made of: TensorRT's parser
    gives the nodes of a function's body one name each time, and refuses a second DequantizeLinear
    of the same name. What several of them compute alike, as the sums of what they read, is computed
    once. Those of plugins keep their bodies, in whose place the parser puts the plugin.

    Every Attention node gets the integer attribute TRT_decomposable = 1: without it the build ends
    where no dedicated kernel exists, which is so in float32, at head sizes below 16 and above 256,
    and for some graphs at one token a row. Where a kernel exists, the engine is the same.

    A fixed cache gets the capacity that it is to have, and `logits` "last" cuts the logits to those
    of the last token. These are float32 then, and those of a bfloat16 model always.

    The copy holds the graph alone and links to the weights, which are not opened.

    Raises:
        TargetError: the file or its weight file is missing, or is not ONNX; or the logits cannot be
            cut to the last token.
    """
    original = read_proto(model)
    proto = _inlined(original)
    graph = graph_from_proto(proto)
    due = [n for n in graph.nodes if n.op == "Attention" and not n.domain and not _is_marked(n)]
    for node in due:
        node.attrs[DECOMPOSABLE] = 1
    cut = logits == "last" and keep_last_token(graph, model)
    widened = widen_logits(graph)
    edited = cut or widened or bool(due) or proto is not original
    if not edited and not _is_fixed(proto):
        return model
    copy = folder / model.name
    onnx.save(proto_from_graph(graph, proto), copy)
    for name in external_files(proto):
        _link(folder / name, model.parent / name)
    return copy


def _is_fixed(proto: onnx.ModelProto) -> bool:
    return any(value.name == WRITE_INDICES for value in proto.graph.input)


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    if all(_is_plugin(function) for function in proto.functions):
        return proto
    model = ir.from_proto(proto)
    InlinePass(lambda function: not _is_plugin(function))(model)
    CommonSubexpressionEliminationPass()(model)
    return ir.to_proto(model)


def _is_plugin(function: onnx.FunctionProto | ir.Function) -> bool:
    return any((function.domain, function.name) == (DOMAIN, op.name) for op in PLUGINS)


def _is_marked(node: gs.Node) -> bool:
    return bool(node.attrs.get(DECOMPOSABLE) == 1)


def _link(link: Path, weights: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(weights.resolve())
