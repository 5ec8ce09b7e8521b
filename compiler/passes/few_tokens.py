"""Write a second graph for few tokens, whose products read 4-bit codes; the first reads bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.graph.branches import copied_node, has_subgraphs, weight_nodes
from castline.compiler.passes.contrib import DOMAIN, import_contrib
from castline.compiler.passes.group_weights import GroupWeights, group_weights
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.replace import remove_unused, take_over
from castline.plugins.linear_w4a8.op import LINEAR_W4A8_GROUPS, LINEAR_W4A8_GROUPS_ASYMMETRIC
from castline.plugins.linear_w8a8.op import LINEAR_W8A8, LINEAR_W8A8_ASYMMETRIC
from castline.plugins.op import DOMAIN as OURS

_ON_BYTES = {
    LINEAR_W4A8_GROUPS: LINEAR_W8A8,
    LINEAR_W4A8_GROUPS_ASYMMETRIC: LINEAR_W8A8_ASYMMETRIC,
}
_ALL_BITS = 8


@dataclass(frozen=True)
class FewTokens:
    """castline.LinearW4A8Groups becomes MatMulNBits in a copy, castline.LinearW8A8 in the model.

    A single token waits for weights: MatMulNBits reads 4 bits of each, in half the time of bytes.
    Many tokens wait for products: those of bytes, summed over whole channels, take a third of its
    time. Weights are the same numbers in both, and stored once. MatMulNBits quantizes what it reads
    in each group, which is finer than a token.
    """

    accuracy_level: int = 4
    """What MatMulNBits may lower activations to: 4 int8 per group, 1 float32."""

    def __call__(self, model: ir.Model) -> tuple[ir.Graph | None, dict[str, str]]:
        """Rewrite `model` in place; return the graph for few tokens, and the products left alone.

        The graph reads the inputs and weights of the model, and gives its outputs under names of
        its own. It is None where there are no such products, or one of them is left alone.
        """
        linears = [node for node in model.graph if any(op.is_op_of(node) for op in _ON_BYTES)]
        declined = {str(node.name): reason for node in linears if (reason := _declined(node))}
        if declined or not linears:
            return None, declined
        weights = {node: _weights(model.graph, node) for node in linears}
        few = self._copied(model.graph, weights)
        for op in _ON_BYTES.values():
            op.define_in(model)
        import_contrib(model)
        for node, matrix in weights.items():
            _multiply_bytes(model.graph, node, matrix)
        return few, {}

    def _copied(self, graph: ir.Graph, weights: Mapping[ir.Node, GroupWeights]) -> ir.Graph:
        of_weights = weight_nodes(graph)
        quantizers = {_quantizer(node) for node in weights}
        copies: dict[ir.Value, ir.Value] = {}
        nodes = []
        for node in graph:
            if node in of_weights or _serves_only(node, quantizers, weights):
                continue
            if node in weights:
                copy = self._product(node, weights[node], copies)
                copies[node.outputs[0]] = copy.outputs[0]
            else:
                copy = copied_node(node, copies)
            nodes.append(copy)
        outputs = [copies[value] for value in graph.outputs]
        return ir.Graph([], outputs, nodes=nodes, name="few_tokens")

    def _product(
        self, node: ir.Node, matrix: GroupWeights, copies: Mapping[ir.Value, ir.Value]
    ) -> ir.Node:
        x = _quantizer(node).inputs[0]
        assert x is not None, "quantizers have an input"
        attributes = {
            "K": matrix.k,
            "N": matrix.n,
            "bits": 4,
            "block_size": matrix.block,
            "accuracy_level": self.accuracy_level,
        }
        inputs = [copies.get(x, x), matrix.codes, matrix.scales]
        copy = ir.node("MatMulNBits", inputs, attributes, domain=DOMAIN, name=f"{node.name}NBits")
        old, new = node.outputs[0], copy.outputs[0]
        new.name, new.shape, new.type = old.name, old.shape, old.type
        return copy


def _declined(node: ir.Node) -> str | None:
    assert node.graph is not None, "it is a node of the model"
    if has_subgraphs(node.graph):
        return "the graph chooses or repeats nodes at run time already"
    quantizer = _quantizer(node)
    if quantizer.attributes.get_int("bits", _ALL_BITS) != _ALL_BITS:
        return "its activations have fewer than 8 bits"
    x, scale = quantizer.inputs[0], _read(node)["weight_scale"]
    if x is None or x.dtype != scale.dtype:
        return "its activations and its scales are of different types"
    return None


def _read(node: ir.Node) -> dict[str, ir.Value]:
    op = next(op for op in _ON_BYTES if op.is_op_of(node))
    return {name: v for name, v in zip(op.inputs, node.inputs, strict=True) if v is not None}


def _quantizer(node: ir.Node) -> ir.Node:
    quantizer = _read(node)["codes"].producer()
    assert quantizer is not None, "QuantizeActivations quantizes what these ops read"
    return quantizer


def _weights(graph: ir.Graph, node: ir.Node) -> GroupWeights:
    read = _read(node)
    of_weights = [read[name] for name in ("weight_codes", "group_scale", "weight_scale")]
    codes, group_scale, weight_scale = of_weights
    writer = NodeWriter(graph, f"{node.name}/weights", node)
    return group_weights(codes, group_scale, weight_scale, graph, writer)


def _serves_only(
    node: ir.Node, quantizers: set[ir.Node], weights: Mapping[ir.Node, GroupWeights]
) -> bool:
    """Return whether `node` quantizes for products that read floats in the copy."""
    users: Sequence[ir.Node] = [use.node for value in node.outputs for use in value.uses()]
    return node in quantizers and all(user in weights for user in users)


def _multiply_bytes(graph: ir.Graph, node: ir.Node, matrix: GroupWeights) -> None:
    read = _read(node)
    op = next(op for op in _ON_BYTES if op.is_op_of(node))
    given = read | {"weight_codes": matrix.steps}
    inputs = [given[name] for name in _ON_BYTES[op].inputs]
    product = ir.node(_ON_BYTES[op].name, inputs, domain=OURS, name=str(node.name))
    graph.insert_before(node, product)
    take_over(node.outputs[0], product.outputs[0])
    remove_unused(graph, [node])
