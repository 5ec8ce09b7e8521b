"""Output folders of tiny graphs, and the message that Triton reads config.pbtxt as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from onnx import TensorProto, helper

from castline.compiler.package.manifest import write_manifest

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT
Folder = Callable[..., Path]


def decoder() -> onnx.ModelProto:
    """Return a graph whose logits are the tokens plus the sum of the mask, with one cache."""
    tokens = ["batch_size", "sequence_length"]
    past = ["batch_size", 1, "past_sequence_length", 1]
    inputs = [
        helper.make_tensor_value_info("input_ids", INT64, tokens),
        helper.make_tensor_value_info("attention_mask", INT64, ["batch_size", "total"]),
        helper.make_tensor_value_info("past_key_values.0.key", FLOAT, past),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", FLOAT, [*tokens, 1]),
        helper.make_tensor_value_info("present.0.key", FLOAT, ["batch_size", 1, "total", 1]),
    ]
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=FLOAT),
        helper.make_node("Unsqueeze", ["ids", "axes"], ["row"]),
        helper.make_node("Concat", ["past_key_values.0.key", "row"], ["present.0.key"], axis=2),
        helper.make_node("ReduceSum", ["attention_mask", "one"], ["length"]),
        helper.make_node("Cast", ["length"], ["count"], to=FLOAT),
        helper.make_node("Add", ["ids", "count"], ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "two"], ["logits"]),
    ]
    numbers = {"axes": [1, 3], "one": [1], "two": [2]}
    return _model(nodes, inputs, outputs, numbers)


def encoder() -> onnx.ModelProto:
    """Return a graph whose hidden states are the tokens, masked."""
    tokens = ["batch_size", "sequence_length"]
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, INT64, tokens) for name in names]
    outputs = [helper.make_tensor_value_info("last_hidden_state", FLOAT, [*tokens, 1])]
    nodes = [
        helper.make_node("Mul", list(names), ["product"]),
        helper.make_node("Cast", ["product"], ["masked"], to=FLOAT),
        helper.make_node("Unsqueeze", ["masked", "two"], ["last_hidden_state"]),
    ]
    return _model(nodes, inputs, outputs, {"two": [2]})


def fixed() -> onnx.ModelProto:
    """Return the decoder with an input that only fixed caches have."""
    model = decoder()
    indices = helper.make_tensor_value_info("write_indices", INT64, ["batch_size"])
    model.graph.input.append(indices)
    return model


GRAPHS = {"decoder": decoder, "encoder": encoder, "fixed": fixed}


def _model(nodes: Any, inputs: Any, outputs: Any, numbers: dict[str, list[int]]) -> Any:
    constants = [helper.make_tensor(n, INT64, [len(v)], v) for n, v in numbers.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture
def compiled_folder(tmp_path: Path) -> Folder:
    """Return a folder such as `castline compile` writes; `kind` is that of its graph.

    `name` is the folder's, `facts` go into the manifest, and with a `build` that names an engine
    there is one, and the library of its plugins where it names these.
    """

    def made(
        name: str = "tiny", *, kind: str = "decoder", weights: bytes = b"weights", **facts: Any
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(GRAPHS[kind](), folder / "model.onnx")
        (folder / "model.onnx.data").write_bytes(weights)
        (folder / "tokenizer.json").write_text("{}")
        (folder / "report.json").write_text('{"seconds": 1.5}')
        (folder / "plan").mkdir()
        (folder / "plan" / "plan.json").write_text("{}")
        build = facts.get("build", {})
        if "engine" in build:
            (folder / build["engine"]).write_bytes(b"engine")
        if build.get("plugins"):
            library = folder / build["plugins"]["library"]
            library.parent.mkdir()
            library.write_bytes(b"library")
        write_manifest(
            folder, {"source": "org/tiny", "target": "onnxruntime", "build": {}, **facts}
        )
        return folder

    return made


ENUM, MESSAGE = 14, 11
BOOL, INT32_FIELD, INT64_FIELD, STRING, UINT32_FIELD = 8, 5, 3, 9, 13
NUMBERED = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"
TYPES = [f"TYPE_{name}" for name in ("INVALID", *NUMBERED.split())]
TENSOR = {"name": STRING, "data_type": "DataType", "dims": [INT64_FIELD]}
# The fields of Triton's protobuf/model_config.proto that Castline writes; * is a map's value.
MESSAGES: dict[str, dict[str, Any]] = {
    "Latest": {"num_versions": UINT32_FIELD},
    "VersionPolicy": {"latest": "Latest"},
    "ModelInput": TENSOR,
    "ModelOutput": TENSOR,
    "DynamicBatching": {"preferred_batch_size": [INT32_FIELD]},
    "InstanceGroup": {"count": INT32_FIELD, "kind": "Kind", "profile": [STRING]},
    "WarmupInput": {
        "data_type": "DataType",
        "dims": [INT64_FIELD],
        "zero_data": BOOL,
        "input_data_file": STRING,
    },
    "WarmupInputs": {"key": STRING, "value": "WarmupInput"},
    "ModelWarmup": {"name": STRING, "batch_size": UINT32_FIELD, "inputs": ["WarmupInputs"]},
    "ModelConfig": {
        "name": STRING,
        "backend": STRING,
        "max_batch_size": INT32_FIELD,
        "version_policy": "VersionPolicy",
        "input": ["ModelInput"],
        "output": ["ModelOutput"],
        "dynamic_batching": "DynamicBatching",
        "instance_group": ["InstanceGroup"],
        "model_warmup": ["ModelWarmup"],
    },
}
ENUMS = {"DataType": TYPES, "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"]}


@pytest.fixture(scope="session")
def triton_config() -> Callable[[], Any]:
    """Return an empty ModelConfig, which text is parsed into; unknown fields are errors."""
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="t", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            one = kind[0] if isinstance(kind, list) else kind
            added = message.field.add(name=field, number=number, label=3 if one != kind else 1)
            added.type = one if isinstance(one, int) else ENUM if one in ENUMS else MESSAGE
            if isinstance(one, str):
                added.type_name = f".t.{one}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))
