from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.graph.folds.parameters import parameter, stored_matrix
from castline.exporters.promise import PromisedWeight


def last(model: ir.Model) -> ir.Node:
    return list(model.graph)[-1]


@pytest.mark.parametrize(
    ("shown", "axes", "offset"),
    [
        ("p = Identity (w)", (0, 1), 0),
        ("p = Transpose <perm = [1, 0]> (w)", (1, 0), 0),
        ("t = Transpose (w) p = Unsqueeze (t, middle)", (1, None, 0), 0),
        ("c = Cast <to = 1> (w) p = Cast <to = 11> (c)", (0, 1), 0),
        ("p = Add (one, w)", (0, 1), 1),
    ],
)
def test_sees_a_stored_tensor_through_other_forms(
    shown: str, axes: tuple[int | None, ...], offset: float, build: Any
) -> None:
    constants = {"one": np.float64(1), "middle": np.array([1])}
    model = build(f"{shown}  y = Mul (x, p)", {"w": (4, 8)}, constants)
    found = parameter(last(model).inputs[1], last(model))
    assert found is not None
    assert (found.name, found.axes, found.offset, found.others) == ("w", axes, offset, ())
    assert found.shape == tuple(1 if axis is None else (4, 8)[axis] for axis in axes)


@pytest.mark.parametrize("computed", ["p = Neg (w)", "p = Mul (w, w)", "p = Identity (x)"])
def test_what_is_computed_is_no_parameter(computed: str, build: Any) -> None:
    model = build(f"{computed}  y = Mul (x, p)", {"w": (8,)})
    assert parameter(last(model).inputs[1], last(model)) is None


def test_names_who_else_reads_it(build: Any) -> None:
    model = build("t = Identity (w)  z = Neg (t)  y = Mul (x, t)", {"w": (8,)})
    found = parameter(last(model).inputs[1], last(model))
    assert found is not None
    assert [node.op_type for node in found.others] == ["Neg"]


@pytest.mark.parametrize(
    ("nodes", "shape", "k", "n"),
    [
        ("y = MatMul (x, w)", (8, 5), 0, 1),
        ("t = Transpose (w) y = MatMul (x, t)", (5, 8), 0, 1),
        ("y = MatMul (x, w)", (2, 8, 5), 1, 2),
        ("f = Reshape (x, rows) y = Gemm <transB = 1> (f, w)", (5, 8), 1, 0),
        ("f = Reshape (x, rows) y = Gemm (f, w)", (8, 5), 0, 1),
    ],
)
def test_finds_the_matrix_of_a_linear(
    nodes: str, shape: tuple[int, ...], k: int, n: int, build: Any
) -> None:
    model = build(nodes, {"w": shape}, {"rows": np.array([-1, 8])})
    matrix = stored_matrix(last(model))
    assert matrix is not None
    assert (matrix.k, matrix.n) == (k, n)
    assert matrix.sizes(k, n) == (8, 5)
    assert matrix.batch == tuple(range(len(shape) - 2))


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Mul (x, w)",
        "f = Reshape (x, columns) y = MatMul (w, f)",
        "t = Transpose (x) y = MatMul (x, t)",
        "f = Reshape (x, columns) y = Gemm <transA = 1> (f, w)",
    ],
)
def test_what_multiplies_no_stored_matrix_is_no_linear(nodes: str, build: Any) -> None:
    assert stored_matrix(last(build(nodes, {"w": (8, 8)}, {"columns": np.array([8, -1])}))) is None


def test_an_edit_is_in_the_axes_of_the_stored_tensor(
    sample: Callable[[str], Any], build: Any
) -> None:
    stored = np.zeros((3, 5, 8), np.float32)  # experts, rows, columns
    checkpoint = sample("llama").checkpoint({"w": stored})
    model = build("y = MatMul (x, w)", {"w": (3, 8, 5)})
    model.graph.initializers["w"].const_value = PromisedWeight(
        checkpoint, "w", ir.DataType.DOUBLE, (0, 2, 1)
    )
    matrix = stored_matrix(last(model))
    assert matrix is not None
    rows = matrix.weight.edit(np.arange(15).reshape(3, 5), (0, 2), multiply=False)
    assert (rows.axes, rows.index.shape) == ((0, 1), (3, 5))
    columns = matrix.weight.edit(np.tile(np.arange(8), (3, 1)), (0, 1), multiply=True)
    assert columns.axes == (2,)
    np.testing.assert_array_equal(columns.index, np.arange(8))
