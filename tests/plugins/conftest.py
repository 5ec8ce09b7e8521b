"""Run the body of an op on ONNX Runtime, and the kernels on the emulator."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from castline.plugins.array_kernels import ArrayKernels
from castline.plugins.binding import Kernels
from castline.plugins.emulation import build_emulated
from castline.plugins.op import DOMAIN, PluginOp

OPTIMIZATIONS = {
    "as written": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "optimized": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# Processors without VNNI instructions saturate sums of two products otherwise.
EXACT_SUMS = ("session.x64quantprecision", "1")
OF_FILES = (ir.DataType.INT4, ir.DataType.UINT4)  # ONNX Runtime takes such values from files alone


def one_node(
    op: PluginOp,
    inputs: list[np.ndarray],
    attributes: dict[str, int],
    stored: Sequence[str] = (),
) -> ir.Model:
    """Return a model of one node; its inputs have as many axes as the arrays, of any size.

    The inputs `stored`, and those of types that ONNX Runtime takes from files alone, are in it.
    """
    values = [
        ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape([None] * array.ndim),
        )
        for name, array in zip(op.inputs, inputs, strict=True)
    ]
    node = ir.node(op.name, values, attributes, domain=DOMAIN, num_outputs=len(op.outputs))
    for name, value in zip(op.outputs, node.outputs, strict=True):
        value.name = name
    graph = ir.Graph(
        [value for value in values if value.dtype not in OF_FILES and value.name not in stored],
        node.outputs,
        nodes=[node],
        name="one_node",
        opset_imports={"": 23, DOMAIN: 1},
    )
    for value, array in zip(values, inputs, strict=True):
        if value.dtype in OF_FILES or value.name in stored:
            value.shape, value.const_value = ir.Shape(array.shape), ir.Tensor(array)
            graph.initializers.add(value)
    model = ir.Model(graph, ir_version=10)
    op.define_in(model)
    return model


@pytest.fixture(name="one_node")
def one_node_fixture() -> Callable[..., ir.Model]:
    """Return the function that makes a model of one node."""
    return one_node


@pytest.fixture(params=list(OPTIMIZATIONS))
def run_op(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., list[np.ndarray]]:
    """Return the outputs of an op for some inputs, with ONNX Runtime's optimizations or not."""

    def run(op: PluginOp, *inputs: np.ndarray, **attributes: int) -> list[np.ndarray]:
        file = tmp_path / "op.onnx"
        proto = ir.to_proto(one_node(op, list(inputs), attributes))
        for output, kind in zip(proto.graph.output, output_types(op, inputs), strict=True):
            output.type.tensor_type.elem_type = kind
        onnx.save(proto, file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = OPTIMIZATIONS[request.param]
        options.add_session_config_entry(*EXACT_SUMS)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        taken = {value.name for value in session.get_inputs()}
        feed = {n: a for n, a in zip(op.inputs, inputs, strict=True) if n in taken}
        return [np.asarray(output) for output in session.run(None, feed)]

    return run


def output_types(op: PluginOp, inputs: tuple[np.ndarray, ...]) -> list[int]:
    """Return the element type of each output, as the schema of the op has it."""
    scaled = inputs[op.inputs.index("x" if "x" in op.inputs else "weight_scale")]
    float_type = onnx.helper.np_dtype_to_tensor_dtype(scaled.dtype)
    types = {"codes": onnx.TensorProto.INT8, "scale": 1, "zero_point": 3, "y": float_type}
    return [types[name] for name in op.outputs]


@pytest.fixture(name="emulated", scope="session")
def emulated_fixture(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ArrayKernels:
    """Return the kernels on the emulator, built where they have changed since the last session.

    Without pytest's cache (`-p no:cacheprovider`) every session builds them.

    CASTLINE_EMULATED_LIBRARY in the environment is another build of them, with another sanitizer.
    """
    built = os.environ.get("CASTLINE_EMULATED_LIBRARY")
    if built is not None:
        return ArrayKernels(Kernels(Path(built)))
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    folder = (cache.mkdir if cache else tmp_path_factory.mktemp)("emulated-kernels")
    return ArrayKernels(Kernels(build_emulated(folder)))


@pytest.fixture(params=["first to last", "last to first"])
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run blocks, warps and lanes of the emulator in this order: results must not depend on it."""
    if request.param == "last to first":
        monkeypatch.setenv("CASTLINE_EMULATOR_REVERSE", "1")
    return str(request.param)


STAND_IN = """
const char* castline_build_info(void) { return KERNELS; }
const char* castline_plugins_info(void) { return PLUGINS; }
"""


def stand_in_library(
    path: Path,
    *,
    sources: str,
    layout_version: int = 1,
    architectures: str = "80 90a",
    exports: str = STAND_IN,
) -> Path:
    """Compile to `path` a library that says what is wanted of itself, and computes nothing."""
    kernels = {"layout_version": layout_version, "architectures": architectures, "emulated": False}
    plugins = {
        "ops": ["PackedLinearW4A16"],
        "tensorrt_headers": "10.14.1",
        "source_hash": sources,
        "castline": "0.0.9",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    code = path.with_suffix(".c")
    code.write_text(exports)
    given = [f"-DKERNELS={_c_string(kernels)}", f"-DPLUGINS={_c_string(plugins)}"]
    subprocess.run(["gcc", "-shared", "-fPIC", *given, "-o", path, code], check=True)
    return path


def _c_string(document: dict[str, object]) -> str:
    return json.dumps(json.dumps(document))


@pytest.fixture(name="stand_in_library")
def stand_in_library_fixture() -> Callable[..., Path]:
    """Return the function that compiles a stand-in for the plugin library."""
    return stand_in_library
