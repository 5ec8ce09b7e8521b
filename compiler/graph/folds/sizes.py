"""Compute every shape of a graph, and the integers that shapes are made of, for small inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.node_result import form, node_result
from castline.compiler.quant.arrays import Array
from castline.exporters import names

Shape = tuple[int, ...]

# Above one, so that no axis is taken for another or for one that broadcasts.
_SIZES = {names.BATCH: 2, names.SEQUENCE: 3, names.PAST: 2, names.TOTAL: 5}
_SMALL = 4096  # elements of a constant that may decide a shape

_AS_FIRST_INPUT = (
    "RMSNormalization", "LayerNormalization", "RotaryEmbedding", "Softmax", "LogSoftmax", "CumSum",
    "Trilu", "ScatterElements", "ScatterND",
)  # fmt: skip
_ELEMENTWISE = (
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish", "Mod", "Mul", "Neg",
    "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Softplus", "Sqrt", "Sub", "Swish", "Tanh", "Where", "Xor",
)  # fmt: skip
# Operators that place, join or count elements -> the inputs whose values decide the shape.
_PLACING: dict[str, tuple[int, ...]] = {
    "Concat": (), "ConstantOfShape": (0,), "Expand": (1,), "Flatten": (),
    "GatherND": (), "OneHot": (1,), "Range": (0, 1, 2), "ReduceMax": (1,),
    "ReduceMean": (1,), "ReduceMin": (1,), "ReduceSum": (1,), "Reshape": (1,),
    "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,), "TopK": (1,),
    "Unsqueeze": (1,),
}  # fmt: skip


class Sizes:
    """Shapes and integers of a graph for two texts of three tokens after a past of two.

    Values that depend on what a text says, and not only on its length, are not known.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._shapes: dict[ir.Value, Shape] = {}
        self._known: dict[ir.Value, Array] = {}
        self._computed: dict[object, list[tuple[Shape | None, Array | None]]] = {}
        for value in (*graph.inputs, *graph.initializers.values()):
            self._given(value)
        for node in graph:
            for output, (shape, known) in zip(node.outputs, self._results(node), strict=True):
                if shape is not None:
                    self._shapes[output] = shape
                if known is not None:
                    self._known[output] = known

    def shape(self, value: ir.Value) -> Shape | None:
        """Return the shape of a value; None where an unknown operator made it."""
        return self._shapes.get(value)

    def known(self, value: ir.Value | None) -> Array | None:
        """Return a value that is constant or depends on shapes alone; None for any other."""
        return None if value is None else self._known.get(value)

    def _given(self, value: ir.Value) -> None:
        shape = _declared(value)
        if shape is None:
            return
        self._shapes[value] = shape
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.LazyTensor):
            return
        if tensor.size == 1 or (tensor.size <= _SMALL and not tensor.dtype.is_floating_point()):
            self._known[value] = tensor.numpy()

    def _results(self, node: ir.Node) -> list[tuple[Shape | None, Array | None]]:
        shapes = [None if value is None else self._shapes.get(value) for value in node.inputs]
        known = [self.known(value) for value in node.inputs]
        key = (
            form(node),
            *shapes,
            *(None if array is None else (array.dtype.str, array.tobytes()) for array in known),
        )
        if key not in self._computed:
            self._computed[key] = _computed(node, shapes, known)
        found = self._computed[key]
        return [
            (_declared(output) if shape is None else shape, value)
            for output, (shape, value) in zip(node.outputs, found, strict=True)
        ]


def _computed(
    node: ir.Node, shapes: list[Shape | None], known: list[Array | None]
) -> list[tuple[Shape | None, Array | None]]:
    nothing: list[tuple[Shape | None, Array | None]] = [(None, None)] * len(node.outputs)
    if node.domain != "" or any(
        shape is None and value is not None
        for shape, value in zip(shapes, node.inputs, strict=True)
    ):
        return nothing
    present = [shape for shape in shapes if shape is not None]
    if node.op_type == "Shape":
        bounds = (node.attributes.get_int("start", 0), node.attributes.get_int("end", None))
        return [_exactly(np.array(present[0][slice(*bounds)], np.int64))]
    placing, elementwise = node.op_type in _PLACING, node.op_type in _ELEMENTWISE
    all_known = all(a is not None for a, v in zip(known, node.inputs, strict=True) if v is not None)
    if all_known and node.inputs and (placing or elementwise):
        return [_exactly(array) for array in node_result(node, known)]
    if elementwise:
        return [(np.broadcast_shapes(*present), None)]
    if placing:
        return _placed(node, shapes, known) or nothing
    shape_of = _SHAPES.get(node.op_type)
    if shape_of is None:
        return [(present[0], None)] if node.op_type in _AS_FIRST_INPUT else nothing
    return [(shape_of(node, present), None), *nothing[1:]]


def _exactly(array: Array) -> tuple[Shape, Array | None]:
    return array.shape, array if array.size <= _SMALL else None


def _placed(
    node: ir.Node, shapes: list[Shape | None], known: list[Array | None]
) -> list[tuple[Shape | None, Array | None]] | None:
    """Return the shapes that a placing operator makes of zeros where values are not known."""
    deciding = [i for i in _PLACING[node.op_type] if i < len(shapes) and shapes[i] is not None]
    if any(known[i] is None for i in deciding):
        return None
    zeros = [None if shape is None else np.zeros(shape, np.int64) for shape in shapes]
    if math.prod(shapes[0] or ()) > _SMALL:  # a table of weights takes no memory this way
        zeros[0] = np.broadcast_to(np.int64(0), shapes[0] or ())
    given = [
        array if i in deciding else zero
        for i, (array, zero) in enumerate(zip(known, zeros, strict=True))
    ]
    return [(array.shape, None) for array in node_result(node, given)]


def _matmul(_node: ir.Node, shapes: list[Shape]) -> Shape | None:
    left, right = shapes[:2]
    if len(left) < 2 or len(right) < 2:
        return None
    return (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])


def _gemm(node: ir.Node, shapes: list[Shape]) -> Shape:
    left, right = shapes[:2]
    return (
        left[1 if node.attributes.get_int("transA", 0) else 0],
        right[0 if node.attributes.get_int("transB", 0) else 1],
    )


def _attention(_node: ir.Node, shapes: list[Shape]) -> Shape | None:
    query, _key, value = shapes[:3]
    return (*query[:3], value[3]) if len(query) == 4 else None


def _gather(node: ir.Node, shapes: list[Shape]) -> Shape:
    table, index = shapes
    axis = node.attributes.get_int("axis", 0) % len(table)
    return (*table[:axis], *index, *table[axis + 1 :])


def _transpose(node: ir.Node, shapes: list[Shape]) -> Shape:
    order = node.attributes.get_ints("perm", tuple(reversed(range(len(shapes[0])))))
    return tuple(shapes[0][axis] for axis in order)


def _gather_elements(_node: ir.Node, shapes: list[Shape]) -> Shape:
    return shapes[1]


_SHAPES: Mapping[str, Callable[[ir.Node, list[Shape]], Shape | None]] = {
    "MatMul": _matmul, "Gemm": _gemm, "Attention": _attention, "GatherElements": _gather_elements,
    "Gather": _gather, "Transpose": _transpose,
}  # fmt: skip


def _declared(value: ir.Value) -> Shape | None:
    """Return the shape that the graph declares, if its axes are numbers and names we know."""
    if value.shape is None:
        return None
    sizes = [d if isinstance(d, int) else _SIZES.get(str(d.value)) for d in value.shape]
    return None if None in sizes else tuple(size for size in sizes if size is not None)
