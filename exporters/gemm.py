"""Write every linear as a MatMul and an Add, as most are traced."""

from __future__ import annotations

import onnx_ir as ir


def split_gemms(graph: ir.Graph) -> None:
    """Replace each Gemm of a product and a sum by MatMul and Add, in place.

    GPT-2's Conv1D and OPT's flattened fc1 and fc2 are traced as Gemm. What finds linears, quantizes
    them or puts a low-bit product in their place then has one form to know. A Gemm that scales or
    transposes its left side is none of a linear's, and stays.
    """
    for gemm in list(graph):
        if gemm.op_type == "Gemm" and not gemm.domain and _is_linear(gemm):
            _split(graph, gemm)


def _is_linear(gemm: ir.Node) -> bool:
    factors = {gemm.attributes.get_float(name, 1.0) for name in ("alpha", "beta")}
    return factors == {1.0} and not gemm.attributes.get_int("transA", 0)


def _split(graph: ir.Graph, gemm: ir.Node) -> None:
    left, right, bias = (*gemm.inputs, None)[:3]
    result = gemm.outputs[0]
    nodes = []
    if gemm.attributes.get_int("transB", 0):
        nodes.append(ir.node("Transpose", [right], {"perm": [1, 0]}))
        right = nodes[-1].outputs[0]
    nodes.append(ir.node("MatMul", [left, right]))
    if bias is not None:
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], bias]))
    for node in nodes:
        node.metadata_props.update(gemm.metadata_props)  # they tell the layer it belongs to
        made = node.outputs[0]
        if node.op_type != "Transpose":
            made.shape, made.type = result.shape, result.type
    graph.insert_before(gemm, nodes)
    last = nodes[-1].outputs[0]
    last.name = result.name
    ir.convenience.replace_all_uses_with(result, last, replace_graph_outputs=True)
    graph.remove(gemm, safe=True)
