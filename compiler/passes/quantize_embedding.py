"""Quantize the embedding table; a head that is tied to it can read the same codes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.passes.initializers import add_initializer
from castline.compiler.passes.promised_matrix import PromisedParts
from castline.compiler.passes.quantize_weights import Quantized
from castline.compiler.passes.weight_codes import code_type
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.round_to_nearest import quantize
from castline.compiler.quant.scheme import GroupSize, WeightScheme
from castline.exporters.names import INPUT_IDS


@dataclass(frozen=True)
class QuantizeEmbedding:
    """The table [vocabulary, hidden] becomes codes in groups along the hidden dimension."""

    scheme: WeightScheme
    with_head: bool = False
    """Whether a head that is tied to the table reads the same codes, which are stored once."""

    def __call__(self, model: ir.Model) -> Quantized:
        """Rewrite `model` in place; nothing is read before the model is written."""
        done = Quantized()
        tables = dict.fromkeys(
            node.inputs[0]
            for node in model.graph
            if node.op_type == "Gather" and _reads_tokens(node) and _is_table(node.inputs[0])
        )
        for table in tables:
            assert table is not None, "a table was found as an initializer"
            self._quantize(model.graph, table)
            done.add(str(table.name), _sizes(table)[1], self.scheme)
        return done

    def _quantize(self, graph: ir.Graph, table: ir.Value) -> None:
        users = [node for node in table.consumers() if self.with_head or node.op_type == "Gather"]
        # What else reads the table may be quantized too, by a scheme of its own.
        shared = len(users) < len(table.consumers())
        parts = _promised(table, self.scheme, f"{table.name}{'_lookup' if shared else ''}")
        for part in parts:
            add_initializer(graph, part)
        _, width = _sizes(table)
        attributes = _granularity(self.scheme.group_for(width))
        gather = next(node for node in users if node.op_type == "Gather")
        path = str(gather.name).rpartition("/")[0]
        node = ir.node("DequantizeLinear", parts, attributes, name=f"{path}/DequantizeLinear")
        dequantized = node.outputs[0]
        dequantized.name = f"{path}/DequantizeLinear_output_0"
        dequantized.shape = table.shape
        dequantized.type = ir.TensorType(table.dtype or ir.DataType.FLOAT)
        graph.insert_before(min(users, key=list(graph).index), node)
        for user in users:
            for position, value in enumerate(user.inputs):
                if value is table:
                    user.replace_input_with(position, dequantized)
        if not table.consumers():
            graph.initializers.pop(str(table.name))


def _reads_tokens(node: ir.Node) -> bool:
    indices = node.inputs[1]
    return indices is not None and indices.name == INPUT_IDS


def _is_table(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and value.shape is not None


def _sizes(table: ir.Value) -> tuple[int, int]:
    assert table.shape is not None, "initializers have shapes"
    rows, width = (int(size) for size in table.shape.numpy())
    return rows, width


def _granularity(group: GroupSize) -> dict[str, int]:
    """Return the attributes of a DequantizeLinear of codes [rows, width].

    A scalar scale has no axis; it is written all the same, for it tells those who lower the table
    or a head tied to it that the rows are what is looked up.
    """
    return {"axis": 1, "block_size": group} if isinstance(group, int) else {"axis": 0}


def _scale_shape(group: GroupSize, rows: int, width: int) -> tuple[int, ...]:
    if isinstance(group, int):
        return rows, width // group
    return (rows,) if group == "per-channel" else ()


def _promised(table: ir.Value, scheme: WeightScheme, name: str) -> list[ir.Value]:
    tensor = table.const_value
    assert tensor is not None, "initializers have tensors"
    rows, width = _sizes(table)
    float_type = table.dtype or ir.DataType.FLOAT
    scale_shape = _scale_shape(scheme.group_for(width), rows, width)

    def compute() -> tuple[Array, ...]:
        matrix = quantize(tensor.numpy().T, scheme, float_type.numpy())
        scales = [part for part in (matrix.scales, matrix.zero_points) if part is not None]
        return matrix.codes.T, *(part.T.reshape(scale_shape) for part in scales)

    promised = PromisedParts(compute, parts=2 if scheme.symmetric else 3)
    stored = code_type(scheme)
    forms = [
        (stored, (rows, width), "quantized"),
        (float_type, scale_shape, "scale"),
        (stored, scale_shape, "zero_point"),
    ]
    return [
        promised.promise(index, dtype, shape, f"{name}_{suffix}")
        for index, (dtype, shape, suffix) in enumerate(forms[: 2 if scheme.symmetric else 3])
    ]
