"""Packed weights are unpacked on disk by the file's own nodes, and the copy does not stay."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.targets import unpacked as module
from castline.compiler.targets.unpacked import (
    loading_bytes,
    unpacked,
    unpacked_bytes,
    write_unpacked,
)
from castline.compiler.targets.write import write_model
from castline.errors import OutputError
from castline.plugins.linear_w4a8.packed import PACKED_LINEAR_W4A8
from castline.plugins.linear_w4a16.packed import PACKED_LINEAR_W4A16
from castline.plugins.linear_w8a8.packed import PACKED_LINEAR_W8A8
from castline.plugins.op import PluginOp
from castline.plugins.packing import pack, pack_scales

K, N, GROUP = 128, 24, 32  # weights of more bytes than stay in a model's file
RANDOM = np.random.default_rng(0)
CODES = RANDOM.integers(-8, 8, (N, K)).astype(np.int8)
SCALES = RANDOM.uniform(0.01, 0.1, (N, K // GROUP)).astype(np.float32)
ZEROS = RANDOM.integers(-8, 8, SCALES.shape).astype(np.int8)
X = RANDOM.standard_normal((3, K)).astype(np.float32)
NEXT = RANDOM.standard_normal((N, 20)).astype(np.float32)  # large, and packed by nobody
WEIGHT_SCALE, BIAS = SCALES[:, 0], np.ones(N, np.float32)

Saved = Callable[[PluginOp], Path]


def weights(op: PluginOp) -> dict[str, np.ndarray]:
    """Return what an op reads of a weight, by the names of its inputs."""
    bits = 8 if op is PACKED_LINEAR_W8A8 else 4
    parts = {
        "packed": pack(CODES, bits),
        "scales": pack_scales(SCALES),
        "zero_points": pack_scales(ZEROS),
        "weight_scale": WEIGHT_SCALE,
        "weight_zero_point": np.zeros(N, np.int8),
        "bias": BIAS,
    }
    return {name: parts[name] for name in op.inputs if name in parts}


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Return the function that writes a model of one packed op and a product after it."""

    def write(op: PluginOp) -> Path:
        floats, codes = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT8)
        stored = [
            ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                const_value=ir.Tensor(array, name=name),
            )
            for name, array in {**weights(op), "next": NEXT}.items()
        ]
        named = {str(value.name): value for value in stored}
        x = ir.Value(name="x", shape=ir.Shape(["M", K]), type=floats)
        read = ir.Value(name="codes", shape=ir.Shape(["M", K]), type=codes)
        scale = ir.Value(name="scale", shape=ir.Shape(["M", 1]), type=floats)
        given = {"x": x, "codes": read, "scale": scale}
        inputs = [named[name] if name in named else given[name] for name in op.inputs]
        sizes = {"k": K, "n": N, "block_size": GROUP, "layout_version": 1}
        attributes = {name: sizes[name] for name in op.attributes}
        product = ir.node(op.name, inputs, attributes, domain="castline")
        after = ir.node("MatMul", [product.outputs[0], named["next"]])
        after.outputs[0].name, after.outputs[0].type = "y", floats
        graph = ir.Graph(
            [value for value in given.values() if value in inputs],
            after.outputs,
            nodes=[product, after],
            initializers=stored,
            opset_imports={"": 23},
            name="graph",
        )
        model = ir.Model(graph, ir_version=10)
        model.metadata_props["noted"] = "stays"
        op.define_in(model)
        (tmp_path / "saved").mkdir()
        return write_model(model, tmp_path / "saved")

    return write


def run(model: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {
        "x": X,
        "codes": (X * 50).clip(-127, 127).astype(np.int8),
        "scale": np.full((3, 1), 0.02, np.float32),
    }
    taken = {value.name: feed[value.name] for value in session.get_inputs()}
    return np.asarray(session.run(None, taken)[0])


@pytest.mark.parametrize("op", [PACKED_LINEAR_W4A16, PACKED_LINEAR_W4A8, PACKED_LINEAR_W8A8])
def test_a_copy_computes_the_same_bits(saved: Saved, op: PluginOp, tmp_path: Path) -> None:
    model = saved(op)
    copy = write_unpacked(model, tmp_path)
    assert run(copy).tobytes() == run(model).tobytes()


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (PACKED_LINEAR_W4A16, ir.DataType.INT4),
        (PACKED_LINEAR_W4A8, ir.DataType.INT8),
        (PACKED_LINEAR_W8A8, ir.DataType.INT8),
    ],
)
def test_codes_are_those_that_were_packed(
    saved: Saved, op: PluginOp, expected: ir.DataType, tmp_path: Path
) -> None:
    copy = ir.load(write_unpacked(saved(op), tmp_path))
    tensors = [value.const_value for value in copy.graph.initializers.values()]
    (codes,) = [t for t in tensors if t is not None and t.shape == (K, N)]
    assert codes.dtype == expected
    assert codes.numpy().astype(np.int8).tolist() == CODES.T.tolist()


def test_what_is_dequantized_stays_so(saved: Saved, tmp_path: Path) -> None:
    copy = ir.load(write_unpacked(saved(PACKED_LINEAR_W4A16), tmp_path))
    assert copy.functions == {}
    assert copy.metadata_props["noted"] == "stays"
    operators = [node.op_type for node in copy.graph if node.op_type != "Constant"]
    assert operators == ["DequantizeLinear", "MatMul", "Add", "MatMul"]
    (dequantized,) = [node for node in copy.graph if node.op_type == "DequantizeLinear"]
    read = [value.const_value for value in dequantized.inputs if value is not None]
    assert [tensor.numpy().astype(np.float32).tolist() for tensor in read if tensor][1:] == [
        SCALES.T.tolist(),
        ZEROS.T.tolist(),
    ]


def test_weights_may_lie_in_a_file_of_two_names(saved: Saved, tmp_path: Path) -> None:
    model = saved(PACKED_LINEAR_W4A16)
    (tmp_path / "other").hardlink_to(model.with_name("model.onnx.data"))
    assert run(write_unpacked(model, tmp_path)).shape == (3, 20)


def test_branches_are_left_to_the_runtime(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[2] x) => (float[2] y) <bool first = {1}, float[2] w = {1, 2}> {
        chosen = If (first) <
            then_branch = a () => (float[2] t) { t = Neg (w) },
            else_branch = b () => (float[2] e) { e = Abs (w) }
        >
        large = Mul (w, w)
        sums = Add (x, chosen)
        y = Add (sums, large)
    }"""
    ir.save(ir.from_onnx_text(text), tmp_path / "branches.onnx")
    copy = ir.load(write_unpacked(tmp_path / "branches.onnx", tmp_path))
    assert [node.op_type for node in copy.graph] == ["If", "Add", "Add"]
    assert "chosen" not in copy.graph.initializers


@pytest.mark.parametrize("ends", [None, KeyboardInterrupt])
def test_the_copy_goes_however_the_block_is_left(
    saved: Saved,
    ends: type[BaseException] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(module, "_ON_DISK", disk)
    try:
        with unpacked(saved(PACKED_LINEAR_W4A16)) as copy:
            assert copy.parent.parent == disk
            if ends is not None:
                raise ends
    except KeyboardInterrupt:
        assert ends is KeyboardInterrupt
    assert list(disk.iterdir()) == []


def test_whoever_names_a_folder_for_temporary_files_has_them_there(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # Python asks once
    with unpacked(saved(PACKED_LINEAR_W4A16)) as copy:
        assert copy.parent.parent == tmp_path


def test_a_full_disk_is_said_with_what_to_do(saved: Saved, tmp_path: Path) -> None:
    model = saved(PACKED_LINEAR_W4A16)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match=r"no larger file is allowed .*elsewhere in TMPDIR"):
            write_unpacked(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("op", "codes"),
    [
        (PACKED_LINEAR_W4A16, 2 * 2 * 16 * 64 // 2),  # whole blocks, as packed
        (PACKED_LINEAR_W4A8, K * N),
        (PACKED_LINEAR_W8A8, K * N),
    ],
)
def test_4_bit_weights_of_integer_products_take_a_byte_each(
    saved: Saved, op: PluginOp, codes: int
) -> None:
    others = {**weights(op), "next": NEXT}
    del others["packed"]
    expected = codes + sum(array.nbytes for array in others.values())
    assert unpacked_bytes(ir.load(saved(op))) == expected


def _widening(source: str, target: str) -> ir.Model:
    to = ir.DataType[target.upper()].value
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 23]>
        g ({target}[N] x) => ({target}[N] y) {{ wide = Cast<to = {to}>(w)
        y = Add(x, wide) }}"""
    )
    weight = model.graph[0].inputs[0]
    assert weight is not None
    dtype = ir.DataType[source.upper()]
    weight.const_value = ir.Tensor(np.zeros(1000, dtype.numpy()), dtype=dtype, name="w")
    weight.shape, weight.dtype = weight.const_value.shape, dtype
    model.graph.initializers.add(weight)
    return model


@pytest.mark.parametrize(
    ("source", "target", "held"),
    [
        ("uint8", "int32", 1000 + 14_000),  # two codes in a byte
        ("int4", "int32", 500 + 9_000),
        ("int4", "int8", 500 + 1000),
        ("int8", "float", 1000),
        ("int64", "int32", 8000),
    ],
)
def test_what_onnxruntime_widens_is_held_while_it_loads(
    source: str, target: str, held: int
) -> None:
    assert loading_bytes(_widening(source, target)) == held
