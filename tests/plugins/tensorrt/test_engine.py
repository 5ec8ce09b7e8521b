"""A graph with one of our nodes becomes an engine with our layer, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from castline.compiler.targets.tensorrt.edition import TENSORRT_RTX
from castline.compiler.targets.tensorrt.environment import builder_environment
from castline.plugins.catalogue import PLUGINS
from castline.plugins.library import Library

pytestmark = pytest.mark.tensorrt

BUILD = """
import json, sys
import tensorrt_rtx as trt
from pathlib import Path
from castline.plugins.library import register

model, library, override = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "override"
builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
register(library, trt)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
if override:
    parser.set_flag(trt.OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE)
parsed = parser.parse(model.read_bytes())
layers = [network.get_layer(index) for index in range(network.num_layers)]
ours = [layer for layer in layers if layer.type == trt.LayerType.PLUGIN_V3]
plugins, engine = {}, None
if parsed:
    for layer in ours:
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        plugins[layer.name] = [[out.dtype.name, *out.shape] for out in outputs]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        if -1 in (value := network.get_input(index)).shape:
            few, many = ([tokens if n == -1 else n for n in value.shape] for tokens in (1, 300))
            profile.set_shape(value.name, few, few, many)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
print(json.dumps({"parsed": parsed, "plugins": plugins, "bytes": engine.nbytes if engine else 0}))
"""


def model(folder: Path, *, layout_version: int = 1) -> Path:
    """Save one PackedLinearW4A16, k = 64 and n = 32; its function computes x @ 0 + bias."""
    body = [
        helper.make_node(
            "Constant", [], ["zero"], value=numpy_helper.from_array(np.zeros((64, 32), np.float16))
        ),
        helper.make_node("MatMul", ["x", "zero"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    names = ["x", "packed", "scales", "zero_points", "bias"]
    stored = [
        np.zeros((2, 1, 512), np.int8),
        np.ones((2, 2, 16), np.float16),
        np.zeros((2, 2, 16), np.int8),
        np.zeros(32, np.float16),
    ]
    attributes = {"k": 64, "n": 32, "block_size": 32, "layout_version": layout_version}
    op, opset = "PackedLinearW4A16", [helper.make_opsetid("", 23)]
    function = helper.make_function(
        "castline", op, names, ["y"], body, opset, attributes=list(attributes)
    )
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="linear", domain="castline", **attributes)],
        "one_product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, "tokens", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, "tokens", 32])],
        [
            numpy_helper.from_array(array, name)
            for name, array in zip(names[1:], stored, strict=True)
        ],
    )
    opset.append(helper.make_opsetid("castline", 1))
    made = helper.make_model(graph, functions=[function], opset_imports=opset, ir_version=10)
    onnx.save(made, folder / "model.onnx")
    return folder / "model.onnx"


PACKED = {"packed": np.zeros((4, 1, 512), np.int8), "bias": np.zeros(64, np.float16)}
CODED = PACKED | {"weight_scale": np.ones(64, np.float16), "weight_sums": np.zeros(64, np.int32)}
FOUR_BITS = CODED | {"weight_zero_point": np.zeros(64, np.int8)}
REASSEMBLY = {
    "gather": np.arange(64, dtype=np.int32),
    "scale": np.ones(64, np.float32),  # of ReassembleChannels
    "gather_scale": np.ones(64, np.float32),  # the same, where scale is an output
    "place": np.zeros(1, np.int32),
    "channel": np.zeros(1, np.int32),
    "channel_scale": np.ones(1, np.float32),
}
PRODUCT = {"k": 64, "n": 64, "layout_version": 1}
GROUPED = PRODUCT | {"block_size": 32}
EIGHT = CODED | {"packed": np.zeros((4, 1, 1024), np.int8)}
OFFSETS = {"scales": np.ones((4, 2, 16), np.float16), "offsets": np.zeros((4, 2, 16), np.float32)}
# Each takes what the one before it gives, and otherwise what is stored here.
CHAIN: tuple[tuple[str, dict[str, int], dict[str, np.ndarray]], ...] = (
    ("QuantizePerToken", {"bits": 8}, {}),
    ("PackedLinearW8A8", PRODUCT, EIGHT),
    ("QuantizePerTokenAsymmetric", {"bits": 8}, {}),
    ("PackedLinearW8A8Asymmetric", PRODUCT, EIGHT),
    ("ReassembleAndQuantize", {"bits": 8}, REASSEMBLY),
    ("PackedLinearW4A8", PRODUCT, FOUR_BITS),
    ("ReassembleAndQuantizeAsymmetric", {"bits": 4}, REASSEMBLY),
    ("PackedLinearW4A4Asymmetric", PRODUCT, FOUR_BITS),
    ("ReassembleChannels", {}, REASSEMBLY),
    ("PackedLinearW4A16Offsets", GROUPED, PACKED | OFFSETS),
)


def chain(folder: Path) -> Path:
    """Save a graph, without functions, in which a node's outputs are the next one's inputs."""
    ops = {op.name: op for op in PLUGINS}
    nodes, stored, given = [], [], {"x": "x"}
    for place, (name, attributes, arrays) in enumerate(CHAIN):
        op = ops[name]
        ours = {each: f"{each}_{place}" for each in op.inputs if each not in given}
        stored += [numpy_helper.from_array(arrays[each], ours[each]) for each in ours]
        inputs = [given.get(each, ours.get(each)) for each in op.inputs]
        outputs = {each: f"{name}_{each}" for each in op.outputs}
        nodes.append(
            helper.make_node(
                name, inputs, [*outputs.values()], name, domain="castline", **attributes
            )
        )
        given = {"x": outputs["y"]} if "y" in outputs else outputs
    shape = [1, "tokens", 64]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info(given["x"], TensorProto.FLOAT16, shape)],
        stored,
    )
    opset = [helper.make_opsetid("", 23), helper.make_opsetid("castline", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model.onnx")
    return folder / "model.onnx"


def built(file: Path, library: Library, *, override: bool = True) -> tuple[dict[str, object], str]:
    """Return what the process says of its engine, and what went to its stderr."""
    way = "override" if override else "as written"
    links = file.parent / "links"
    links.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, file, library.path, way],
        env=builder_environment(links, TENSORRT_RTX),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_our_layer_takes_the_place_of_the_function(tmp_path: Path, plugin_library: Library) -> None:
    outcome, errors = built(model(tmp_path), plugin_library)
    assert outcome["plugins"] == {"linear": [["HALF", 1, -1, 32]]}, errors
    assert outcome["bytes"] != 0


def test_outputs_of_each_layer_are_inputs_of_the_next(
    tmp_path: Path, plugin_library: Library
) -> None:
    outcome, errors = built(chain(tmp_path), plugin_library)
    codes, value = ["INT8", 1, -1, 64], ["HALF", 1, -1, 64]
    scale, zero_point = ["FLOAT", 1, -1, 1], ["INT8", 1, -1, 1]
    symmetric, asymmetric = [codes, scale], [codes, scale, zero_point]
    assert outcome["plugins"] == {
        "QuantizePerToken": symmetric,
        "PackedLinearW8A8": [value],
        "QuantizePerTokenAsymmetric": asymmetric,
        "PackedLinearW8A8Asymmetric": [value],
        "ReassembleAndQuantize": symmetric,
        "PackedLinearW4A8": [value],
        "ReassembleAndQuantizeAsymmetric": asymmetric,
        "PackedLinearW4A4Asymmetric": [value],
        "ReassembleChannels": [value],
        "PackedLinearW4A16Offsets": [value],
    }, errors
    assert outcome["bytes"] != 0


def test_without_the_override_the_function_is_built(
    tmp_path: Path, plugin_library: Library
) -> None:
    outcome, errors = built(model(tmp_path), plugin_library, override=False)
    assert outcome["plugins"] == {}, errors
    assert outcome["bytes"] != 0


def test_an_unknown_layout_is_refused_with_the_reason(
    tmp_path: Path, plugin_library: Library
) -> None:
    outcome, errors = built(model(tmp_path, layout_version=2), plugin_library)
    assert outcome["parsed"] is False
    assert "layout_version=2): this library reads the packed layout 1" in errors
