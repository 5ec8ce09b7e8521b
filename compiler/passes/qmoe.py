"""Lower quantized experts to one QMoE node, which multiplies by the codes themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.experts import DenseExperts, dense_experts
from castline.compiler.graph.gated_experts import is_silu_gated
from castline.compiler.graph.non_negative import is_non_negative
from castline.compiler.passes.contrib import DOMAIN, import_contrib
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.passes.packed_experts import code_bits, common_block, packed_experts
from castline.compiler.passes.replace import remove_unused, take_over
from castline.compiler.quant.arrays import Array


@dataclass(frozen=True)
class QMoE:
    """Experts gated by SiLU, with codes in groups; the graph keeps its own router.

    The node chooses by one input and weighs by another. It gets 1 for each chosen expert to choose
    by, and the router's own weights to weigh by, so that any way to route can be told to it.
    """

    accuracy_level: int = 4
    """What activations may be lowered to: 4 int8 per block, 1 float32."""

    eight_bits: bool = False
    """Whether codes of 8 bits are taken too: with them, activations are int8 at every level."""

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return quantized mixtures left as they are, with the reason."""
        found, _ = dense_experts(model)
        declined: dict[str, str] = {}
        for experts in found:
            if all(linear.dequantize is None for linear in experts.linears):
                continue
            reason = self._refusal(experts)
            if reason:
                declined[experts.name] = reason
                continue
            self._lower(model.graph, experts)
            import_contrib(model)
        model.graph.sort()
        return declined

    def _refusal(self, experts: DenseExperts) -> str | None:
        """Return why a quantized mixture is left as it is, or None where QMoE computes it."""
        if not is_silu_gated(experts):
            return "its experts are not gated by SiLU alone"
        if experts.weights.dtype != experts.hidden.dtype:
            return "its router works in another type than its experts"
        if not is_non_negative(experts.weights):
            return "its router may give weights below zero, which the kernel takes for zero"
        bits = {code_bits(linear) for linear in experts.linears}
        if bits not in ({4}, {8}):
            return "its codes are not stored integers of 4 or of 8 bits"
        if bits == {8} and not self.eight_bits:
            return "with codes of 8 bits the kernel rounds activations to int8"
        if common_block(*experts.linears) is None:
            groups = " and ".join(str(linear.k) for linear in experts.linears)
            return f"no power of two from 16 on divides the groups of K = {groups}"
        return None

    def _lower(self, graph: ir.Graph, experts: DenseExperts) -> None:
        gate_up, down = experts.linears
        block, bits = common_block(gate_up, down), code_bits(down)
        assert block is not None, "_refusal saw to it"
        assert bits is not None, "_refusal saw to it"
        gates = packed_experts(graph, gate_up, block, _interleaved(down.k))
        downs = packed_experts(graph, down, block, np.arange(down.n))
        last = experts.output.producer()
        assert last is not None, "a sum is computed"
        write = NodeWriter(graph, f"{experts.name}/qmoe", last)
        output = write.add(
            "QMoE",
            [
                *(experts.hidden, _chosen(write, experts)),
                *(gates[0], gates[1], None),
                *(downs[0], downs[1], None),
                *(None, None, None),  # a third linear, where gate and up are apart
                *(gates[2] if len(gates) > 2 else None, downs[2] if len(downs) > 2 else None, None),
                experts.routing,
            ],
            {
                "k": experts.chosen,
                "activation_type": "swiglu",
                "swiglu_fusion": 1,
                "expert_weight_bits": bits,
                "block_size": block,
                "accuracy_level": self.accuracy_level,
            },
            DOMAIN,
        )
        take_over(experts.output, output)
        remove_unused(graph, [last])


def _interleaved(width: int) -> Array:
    """Return the order [gate 0, up 0, gate 1, up 1, ...] of [gates, ups], `width` of each."""
    return np.arange(2 * width).reshape(2, width).T.reshape(-1)


def _chosen(write: NodeWriter, experts: DenseExperts) -> ir.Value:
    """Return [T, E]: 1 for the experts that a token chose, 0 for the others."""
    dtype = experts.weights.dtype or ir.DataType.FLOAT
    one = write.add("Cast", [write.constant("one", [1])], {"to": int(dtype)})
    ones = write.add("Expand", [one, write.add("Shape", [experts.index])])
    places = [experts.nothing, experts.index, ones]
    return write.add("ScatterElements", places, {"axis": 1})
