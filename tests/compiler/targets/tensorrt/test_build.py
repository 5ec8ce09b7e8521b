"""Build a TensorRT-RTX engine from a lowered ONNX file; no GPU is needed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from castline.compiler.passes.authorship import AUTHOR
from castline.compiler.targets.tensorrt import build, builder_process
from castline.compiler.targets.tensorrt.build import EngineFacts, build_engine
from castline.compiler.targets.tensorrt.child import peak_memory
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.profile import Profile, Range, model_shapes
from castline.errors import OutputError, TargetError
from castline.plugins.library import find_library
from castline.progress import SilentProgress

SaveLinear = Callable[..., Path]
SaveAttention = Callable[..., Path]
SaveGraph = Callable[..., Path]

SMALL = Profile(batch=Range(1, 1, 2), sequence=Range(1, 4, 16), past=Range(0, 8, 32))

BUILDS = """
import json, sys
job = json.loads(sys.stdin.read())
open(job["engine"], "wb").write(b"engine of " + job["compute_capabilities"][0].encode())
outcome = {"version": "1.7", "peak_memory": 7, "layers": {"MATRIX_MULTIPLY": 1}}
open(job["outcome"], "w").write(json.dumps(outcome))
print("[V] Total Weights Memory: 2048 bytes")
"""
REPORTS = """
import json, sys
job = json.loads(sys.stdin.read())
open(job["engine"], "wb").write(b"half an engine")
open(job["outcome"], "w").write(json.dumps({outcome}))
print({log})
"""
CRASHES = """
import json, os, sys
job = json.loads(sys.stdin.read())
open(job["engine"], "wb").write(b"half an engine")
print("terminate called without an active exception", flush=True)
os.abort()
"""


def build_small(model: Path, engine: Path, *capabilities: str) -> EngineFacts:
    return build_engine(
        model,
        engine,
        profiles=model_shapes(model, SMALL),
        options=EngineOptions(compute_capabilities=capabilities),
        progress=SilentProgress(),
    )


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a Python program in the place of the engine builder."""

    def replace(code: str) -> None:
        monkeypatch.setattr(builder_process, "CHILD", (sys.executable, "-c", code))
        monkeypatch.setattr(build, "require_builder", lambda *_: None)

    return replace


def test_the_facts_say_what_was_built(
    child: Callable[[str], None], save_linear: SaveLinear, tmp_path: Path
) -> None:
    child(BUILDS)
    engine = tmp_path / "new" / "model.engine"
    facts = build_small(save_linear(), engine, "8.9")
    assert engine.read_bytes() == b"engine of 8.9"
    assert (facts.path, facts.bytes, facts.compute_capabilities) == (engine, 13, ("8.9",))
    assert (facts.tensorrt_version, facts.peak_memory_bytes) == ("1.7", 7)
    assert facts.layers == {"MATRIX_MULTIPLY": 1}
    assert facts.profiles[0]["inputs_embeds"].max == (2, 16, 64)
    assert facts.weights_kept_low_bit is None
    assert facts.log == engine.with_name("model.engine.build.log")
    assert sorted(path.name for path in engine.parent.iterdir()) == [
        "model.engine",
        "model.engine.build.log",
    ]


def test_a_crash_leaves_the_log_and_the_engine_that_was_there(
    child: Callable[[str], None], save_linear: SaveLinear, tmp_path: Path
) -> None:
    child(CRASHES)
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"an earlier engine")
    with pytest.raises(TargetError, match=r"crashed \(signal SIGABRT\)(?s:.*)terminate called"):
        build_small(save_linear(), engine)
    assert engine.read_bytes() == b"an earlier engine"
    assert "terminate called" in (tmp_path / "model.engine.build.log").read_text()
    assert not (tmp_path / "model.engine.partial").exists()


@pytest.mark.parametrize(
    ("outcome", "log", "error", "message"),
    [
        (
            {"failed": "Could not parse ONNX correctly"},
            "[E] In node 3 with name: proj and operator: MatMul (importMatMul): shapes differ",
            TargetError,
            r"proj \(MatMul\): \(importMatMul\): shapes differ",
        ),
        ({"failed": "Invalid Engine"}, "[I] the last line", TargetError, r"\[I\] the last line"),
        ({"declined": "3.5 is unknown"}, "", TargetError, r"model\.onnx: 3\.5 is unknown"),
        ({"unwritable": "disk full"}, "", OutputError, "cannot be written: disk full"),
    ],
)
def test_what_the_builder_could_not_do_is_told(
    child: Callable[[str], None],
    save_linear: SaveLinear,
    tmp_path: Path,
    *,
    outcome: dict[str, str],
    log: str,
    error: type[Exception],
    message: str,
) -> None:
    child(REPORTS.format(outcome=outcome, log=repr(log)))
    engine = tmp_path / "model.engine"
    with pytest.raises(error, match=message):
        build_small(save_linear(), engine)
    assert not engine.exists()
    assert not (tmp_path / "model.engine.partial").exists()


def test_a_graph_that_would_be_refused_is_not_begun(
    child: Callable[[str], None], save_linear: SaveLinear, tmp_path: Path
) -> None:
    child("raise AssertionError('the builder was started')")
    with pytest.raises(TargetError, match=r"would refuse(?s:.*)proj/dequantize"):
        build_small(save_linear(block=32, zero_points=[5]), tmp_path / "model.engine")
    assert list(tmp_path.glob("model.engine*")) == []


def test_attention_is_marked_on_the_way(
    child: Callable[[str], None], save_attention: SaveAttention, tmp_path: Path
) -> None:
    keep = tmp_path / "handed.onnx"
    child(BUILDS + "import shutil\n" + f"shutil.copy(job['model'], {str(keep)!r})")
    build_small(save_attention(TensorProto.FLOAT), tmp_path / "model.engine", "8.9")
    attributes = [a.name for node in onnx.load(keep).graph.node for a in node.attribute]
    assert "TRT_decomposable" in attributes


def test_a_missing_tensorrt_rtx_is_said_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(TargetError, match="pip install tensorrt-rtx-cu13"):
        build_engine(
            tmp_path / "absent.onnx",
            tmp_path / "model.engine",
            profiles=(),
            progress=SilentProgress(),
        )


def test_a_folder_that_cannot_be_made_is_named(
    child: Callable[[str], None], save_linear: SaveLinear, tmp_path: Path
) -> None:
    child(BUILDS)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="the folder of the engine cannot be made"):
        build_small(save_linear(), tmp_path / "file" / "model.engine", "8.9")


def test_the_build_is_one_stage_of_the_progress(
    child: Callable[[str], None], save_linear: SaveLinear, tmp_path: Path
) -> None:
    child(BUILDS)
    titles = []

    class Watching(SilentProgress):
        @contextmanager
        def stage(
            self, title: str, total: float | None = None, unit: str = ""
        ) -> Iterator[Callable[[float], None]]:
            titles.append((title, total, unit))
            yield lambda _amount: None

    model = save_linear()
    build_engine(
        model,
        tmp_path / "model.engine",
        profiles=model_shapes(model, SMALL),
        options=EngineOptions(compute_capabilities=("8.9",)),
        progress=Watching(),
    )
    assert titles == [("Building the TensorRT-RTX engine", None, "")]


@pytest.mark.parametrize(("reported", "remarks"), [(4000, 0), (40000, 1)])
def test_a_remark_that_the_size_disproves_is_left_out(
    child: Callable[[str], None],
    save_linear: SaveLinear,
    tmp_path: Path,
    *,
    reported: int,
    remarks: int,
) -> None:
    child(BUILDS.replace("2048", str(reported)))
    facts = build_small(save_linear(64, 128, block=16), tmp_path / "model.engine", "8.9")
    assert len(facts.remarks) == remarks
    assert facts.weights_kept_low_bit is (remarks == 0)


# From here on TensorRT-RTX itself builds.


@pytest.fixture
def tensorrt_rtx() -> None:
    pytest.importorskip("tensorrt_rtx")


@pytest.mark.tensorrt
@pytest.mark.usefixtures("tensorrt_rtx")
def test_an_fp16_linear_builds(save_linear: SaveLinear, tmp_path: Path) -> None:
    facts = build_small(save_linear(256, 256, external=True), tmp_path / "model.engine")
    assert facts.bytes == (tmp_path / "model.engine").stat().st_size > 256 * 256 * 2
    assert facts.layers["MATRIX_MULTIPLY"] == 1
    assert facts.peak_memory_bytes > facts.bytes
    assert facts.tensorrt_version.startswith("1.")


@pytest.mark.tensorrt
@pytest.mark.usefixtures("tensorrt_rtx")
@pytest.mark.parametrize("block", [32, 64, 128])
def test_int4_blocks_stay_int4(save_linear: SaveLinear, tmp_path: Path, block: int) -> None:
    model = save_linear(1024, 1024, block=block, external=True)
    facts = build_small(model, tmp_path / "model.engine")
    stored = 1024 * 1024 // 2 + 1024 // block * 1024 * 2
    assert facts.weights_kept_low_bit is True
    assert stored <= facts.weights.held < stored + 4096
    assert facts.bytes < 1024 * 1024
    assert facts.remarks == ()


@pytest.mark.tensorrt
@pytest.mark.usefixtures("tensorrt_rtx")
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_int4_with_offsets_stays_int4(
    save_offsets: Callable[..., Path], tmp_path: Path, dtype: int
) -> None:
    facts = build_small(save_offsets(1024, 128, dtype), tmp_path / "model.engine")
    assert facts.weights_kept_low_bit is True
    codes = 2 * 1024 * 1024 // 2
    assert codes < facts.weights.held < 1.2 * codes


@pytest.mark.tensorrt
@pytest.mark.usefixtures("tensorrt_rtx")
@pytest.mark.parametrize(
    ("dtype", "head"),
    [
        (TensorProto.FLOAT16, 64),
        (TensorProto.BFLOAT16, 64),
        (TensorProto.FLOAT, 64),
        (TensorProto.FLOAT16, 8),
        (TensorProto.BFLOAT16, 512),
    ],
)
def test_attention_with_its_cache_builds_for_prefill_and_decode(
    save_attention: SaveAttention, tmp_path: Path, dtype: int, head: int
) -> None:
    model = save_attention(dtype, head, external=True)
    facts = build_small(model, tmp_path / "model.engine")
    assert facts.layers["ATTENTION_INPUT"] == 1
    assert [phase["inputs_embeds"].max[1] for phase in facts.profiles] == [16, 1]


@pytest.mark.tensorrt
@pytest.mark.usefixtures("tensorrt_rtx")
def test_one_compute_capability_can_be_asked_for(save_linear: SaveLinear, tmp_path: Path) -> None:
    facts = build_small(save_linear(), tmp_path / "model.engine", "8.9")
    assert facts.compute_capabilities == ("8.9",)
    with pytest.raises(TargetError, match=r"3\.5: TensorRT-RTX .* builds for .*8\.9"):
        build_small(save_linear(), tmp_path / "model.engine", "3.5")


@pytest.mark.tensorrt
@pytest.mark.usefixtures("tensorrt_rtx")
def test_an_error_of_the_parser_names_the_node(save_graph: SaveGraph, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    node = helper.make_node("MatMul", ["inputs_embeds", "w"], ["y"], "layers.0.q_proj")
    half = TensorProto.FLOAT16
    model = save_graph(
        [node], [("inputs_embeds", half, ["batch", "sequence", 8])],
        [("y", half, ["batch", "sequence", 8])], [weight],
    )  # fmt: skip
    with pytest.raises(TargetError, match=r"layers\.0\.q_proj"):
        build_small(model, tmp_path / "model.engine")
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.tensorrt
@pytest.mark.usefixtures("tensorrt_rtx")
def test_an_error_of_the_builder_has_its_reason(save_linear: SaveLinear, tmp_path: Path) -> None:
    model = save_linear(256, 256, block=32)
    with pytest.raises(TargetError, match=r"sm75, because the model contains .*int4"):
        build_small(model, tmp_path / "model.engine", "7.5")
    assert not (tmp_path / "model.engine").exists()
    assert "int4" in (tmp_path / "model.engine.build.log").read_text()


@pytest.mark.tensorrt
def test_packed_codes_become_a_layer_of_a_plugin(
    save_packed: Callable[..., Path], tmp_path: Path
) -> None:
    model = save_packed()
    facts = build_engine(
        model,
        tmp_path / "model.engine",
        profiles=model_shapes(model, SMALL),
        plugins=find_library().path,
        progress=SilentProgress(),
    )
    assert facts.plugin_layers == {"PackedLinearW4A16": 1}
    assert facts.layers["PLUGIN_V3"] == 1
    assert "MATRIX_MULTIPLY" not in facts.layers


@pytest.mark.tensorrt
@pytest.mark.usefixtures("tensorrt_rtx")
def test_an_error_of_the_parser_names_the_pass(save_linear: SaveLinear, tmp_path: Path) -> None:
    model = save_linear()
    proto = onnx.load(model)
    proto.graph.node[0].op_type = "Det"
    proto.graph.node[0].input.pop()
    proto.graph.node[0].metadata_props.add(key=AUTHOR, value="QuantizeWeights")
    onnx.save(proto, model)
    with pytest.raises(TargetError, match=r"proj \(Det, made by QuantizeWeights\): "):
        build_small(model, tmp_path / "model.engine")


@pytest.mark.slow
@pytest.mark.tensorrt
@pytest.mark.usefixtures("tensorrt_rtx")
def test_weights_above_2_gb_stay_out_of_the_proto(save_graph: SaveGraph, tmp_path: Path) -> None:
    k, n = 16384, 33792
    size = 2 * k * n
    half = TensorProto.FLOAT16
    names, shapes = ["up", "down"], [[k, n], [n, k]]
    weights = [
        onnx.TensorProto(name=name, data_type=half, dims=d, raw_data=b"")
        for name, d in zip(names, shapes, strict=True)
    ]
    for index, weight in enumerate(weights):
        set_external_data(weight, "model.onnx.data", index * size, size)
        weight.ClearField("raw_data")
    model = save_graph(
        [
            helper.make_node("MatMul", ["inputs_embeds", "up"], ["h"], "up_proj"),
            helper.make_node("MatMul", ["h", "down"], ["y"], "down_proj"),
        ],
        [("inputs_embeds", half, ["batch", "sequence", k])],
        [("y", half, ["batch", "sequence", k])],
        weights,
    )
    with model.with_name("model.onnx.data").open("wb") as file:
        file.truncate(2 * size)  # a hole: zeros that take no room on the disk
    assert 2 * size > 2**31
    before = peak_memory()
    facts = build_small(model, tmp_path / "model.engine")
    assert peak_memory() - before < 200e6, "only the builder's process reads weights"
    assert facts.bytes > size
    (tmp_path / "model.engine").unlink()
