"""Lower DequantizeLinear and MatMul to MatMulNBits, which multiplies by the codes themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.passes.promised_matrix import Array, PromisedParts
from castline.compiler.passes.replace import remove_unused, take_over
from castline.compiler.quant.packing import packed_codes, packed_zero_points, unsigned

DOMAIN = "com.microsoft"
_SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 256
_SIGNED = (ir.DataType.INT4, ir.DataType.INT8)


@dataclass(frozen=True)
class MatMulNBits:
    """Codes are packed [N, K / block, block * bits / 8]; one scale per channel is repeated."""

    accuracy_level: int = 4
    """Type that activations may be lowered to: 4 is int8 per block, 1 float32, 0 the runtime's choice."""

    def __call__(self, model: ir.Model) -> dict[str, str]:
        """Rewrite `model` in place; return the MatMuls left alone, with the reason."""
        declined: dict[str, str] = {}
        for node in list(model.graph):
            if node.op_type != "MatMul":
                continue
            weight = node.inputs[1]
            dequantize = weight.producer() if weight is not None else None
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                continue
            reason = self._lower(model.graph, node, dequantize)
            if reason:
                declined[str(node.name)] = reason
        model.graph.opset_imports.setdefault(DOMAIN, 1)
        return declined

    def _lower(self, graph: ir.Graph, node: ir.Node, dequantize: ir.Node) -> str | None:
        codes = dequantize.inputs[0]
        assert codes is not None, "DequantizeLinear has codes"
        assert codes.shape is not None, "initializers have shapes"
        k, n = (int(size) for size in codes.shape.numpy())
        block = _block(k, dequantize.attributes.get_int("block_size", 0))
        if block is None:
            return f"K = {k} has no divisor between 16 and 256 that is a power of two"
        bits = 4 if codes.dtype in (ir.DataType.INT4, ir.DataType.UINT4) else 8
        packed = _packed(dequantize, k, n, bits, block)
        for value in packed:
            graph.initializers.add(value)
        attributes = {
            "K": k, "N": n, "bits": bits, "block_size": block,
            "accuracy_level": self.accuracy_level,
        }  # fmt: skip
        bias, last = _bias(node)
        inputs = [node.inputs[0], *packed]
        if bias is not None:
            inputs += [None] * (5 - len(inputs)) + [bias]
        lowered = ir.node(
            "MatMulNBits", inputs, attributes, domain=DOMAIN, name=f"{node.name}NBits"
        )
        graph.insert_before(last, lowered)
        take_over(graph, last.outputs[0], lowered.outputs[0])
        remove_unused(graph, [last])
        return None


def _block(k: int, group: int) -> int | None:
    """Return the block to store: the group, or for one scale per channel the largest that fits."""
    if group:
        return group
    block = _LARGEST_BLOCK
    while block >= _SMALLEST_BLOCK and k % block:
        block //= 2
    return block if block >= _SMALLEST_BLOCK else None


def _packed(dequantize: ir.Node, k: int, n: int, bits: int, block: int) -> list[ir.Value]:
    codes, scales = dequantize.inputs[0], dequantize.inputs[1]
    zero_points = dequantize.inputs[2] if len(dequantize.inputs) > 2 else None
    assert codes is not None and scales is not None, "DequantizeLinear has codes and scales"
    groups = k // block
    signed = codes.dtype in _SIGNED

    def compute() -> tuple[Array, ...]:
        raw = _array(codes)
        code_bytes = unsigned(raw.view(np.int8), bits) if signed else raw.view(np.uint8)
        parts = [packed_codes(code_bytes, bits, block)]
        parts.append(np.ascontiguousarray(_grouped(_array(scales), groups, n).T).reshape(-1))
        if zero_points is not None:
            zeros = _grouped(_array(zero_points).view(np.uint8), groups, n)
            parts.append(packed_zero_points(zeros, bits))
        return tuple(parts)

    count = 2 if zero_points is None else 3
    promised = PromisedParts(compute, count)
    scale_type = scales.dtype or ir.DataType.FLOAT
    byte = ir.DataType.UINT8
    shape = (n, groups, block * bits // 8)
    parts = [
        promised.promise(0, byte, shape, f"{codes.name}_packed"),
        promised.promise(1, scale_type, (n * groups,), f"{scales.name}_packed"),
    ]
    if zero_points is not None:
        width = -(-groups * bits // 8)
        parts.append(promised.promise(2, byte, (n, width), f"{zero_points.name}_packed"))
    return parts


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None, "codes and scales are initializers"
    return value.const_value.numpy()


def _grouped(values: Array, groups: int, n: int) -> Array:
    """Return [G, N]; a per-channel vector [N] is repeated for each of the groups."""
    return np.broadcast_to(values, (groups, n)) if values.ndim == 1 else values


def _bias(node: ir.Node) -> tuple[ir.Value | None, ir.Node]:
    """Return the bias that an Add after the MatMul brings, and the node that ends the linear."""
    users = list(node.outputs[0].consumers())
    if len(users) == 1 and users[0].op_type == "Add" and not node.outputs[0].is_graph_output():
        for value in users[0].inputs:
            if value is not None and value.is_initializer() and _is_vector(value):
                return value, users[0]
    return None, node


def _is_vector(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 1
