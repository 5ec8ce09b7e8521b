"""The tensorrt-rtx target refuses early what the builder would refuse late."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.quantize_cache import QuantizeCache
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.plan.decisions import PlannedCache
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.context import FLOAT_ACTIVATIONS
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.target import Lowered
from castline.compiler.targets.tensorrt import target as module
from castline.compiler.targets.tensorrt.build import EngineFacts, build_engine
from castline.compiler.targets.tensorrt.edition import TENSORRT_RTX
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.engine_profiles import engine_profiles
from castline.compiler.targets.tensorrt.shape_flags import Shapes
from castline.compiler.targets.tensorrt.target import TensorRT
from castline.compiler.targets.tensorrt.weights import WeightBytes, WeightJudgement
from castline.compiler.targets.write import write_model
from castline.errors import OutputError, TargetError
from castline.plugins.library import Library
from castline.progress import SilentProgress

CONTEXT = 64
DECODER = """<ir_version: 10, opset_import: ["" : 23]>
g (float[B, 2, P, 4] past) => (float[B, 2, P, 4] present) { present = Identity (past) }"""

ENCODER = """<ir_version: 10, opset_import: ["" : 23]>
g (int64[B, S] input_ids) => (int64[B, S] y) { y = Identity (input_ids) }"""


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """Return a folder with a model that has a cache, for a builder that does not look at it."""
    model = ir.from_onnx_text(DECODER)
    model.graph.inputs[0].name = "past_key_values.0.key"
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path


def test_refuses_zero_points_wherever_they_are() -> None:
    zero_points = "{bits: 8, group_size: per-channel, symmetric: false}"
    recipe = load_recipe(
        "w4a16-rtn", (f"weights={zero_points}", f"head={zero_points}", "embedding=keep")
    )
    with pytest.raises(
        TargetError, match=r"takes zero-points in 4-bit .*has them in weights, head\."
    ) as raised:
        TensorRT(TENSORRT_RTX).require(recipe)
    assert "--set weights.symmetric=true --set head.symmetric=true" in str(raised.value)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Have a plugin library; return what it was asked for, and whether there is another way."""
    asked: list[tuple[str, bool]] = []
    path = tmp_path / "cache" / "libcastline_plugins.so"
    path.parent.mkdir()
    path.write_bytes(b"a library")

    def required(what: str, *, native: bool = False) -> Library:
        asked.append((what, native))
        return Library(path, "5ab1e", 1, ("80",), (), "50", "10.14", "0.1")

    monkeypatch.setattr(module, "required_library", required)
    return asked


@pytest.mark.parametrize(
    ("recipe", "needs"),
    [
        ("float", []),
        ("w4a16-rtn-sym", []),
        ("w8a16-rtn", []),
        ("w4a16-rtn", [("zero-points in weights", True)]),
        ("w8a8-smoothquant", [("activation scales taken at run time", False)]),
    ],
)
def test_takes_what_it_computes_when_all_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    library: list[tuple[str, bool]],
    recipe: str,
    needs: list[tuple[str, bool]],
) -> None:
    asked = []
    monkeypatch.setattr(module, "require_builder", lambda *_: asked.append(recipe))
    TensorRT(TENSORRT_RTX).require(load_recipe(recipe, ()))
    assert (asked, library) == ([recipe], needs)


def test_without_plugins_no_library_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, library: list[tuple[str, bool]]
) -> None:
    monkeypatch.setattr(module, "require_builder", lambda *_: None)
    TensorRT(TENSORRT_RTX, TargetOptions(plugins="never")).require(load_recipe("w4a16-rtn", ()))
    assert library == []
    with pytest.raises(TargetError, match="Leave --plugins never out"):
        TensorRT(TENSORRT_RTX, TargetOptions(plugins="never")).require(
            load_recipe("w8a8-smoothquant", ())
        )


def test_linears_that_plugins_do_not_compute_are_refused_before_a_search(
    sample: Callable[[str], Any],
) -> None:
    recipe, graph = load_recipe("w4a16-rtn", ()), sample("llama").graph()
    with pytest.raises(TargetError, match=r"(?s)use --dtype float16.*use --plugins never"):
        TensorRT(TENSORRT_RTX).require_graph(graph, recipe, CONTEXT)
    TensorRT(TENSORRT_RTX, TargetOptions(plugins="never")).require_graph(graph, recipe, CONTEXT)
    TensorRT(TENSORRT_RTX).require_graph(
        sample("llama").graph(ir.DataType.FLOAT16), recipe, CONTEXT
    )


def test_takes_every_dtype() -> None:
    for dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        TensorRT(TENSORRT_RTX).require_dtype(dtype)


def test_leaves_the_neutral_graph_as_it_is() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[1] x) => (float[1] y) { y = Neg (x) }'
    )
    assert TensorRT(TENSORRT_RTX).lower(model, 512) == Lowered()
    assert [node.op_type for node in model.graph] == ["Neg"]


def test_zero_points_of_products_become_plugins_or_offsets(
    sample: Callable[[str], Any], library: list[tuple[str, bool]]
) -> None:
    for target, op, asked in (
        (TensorRT(TENSORRT_RTX), "PackedLinearW4A16", [("21 PackedLinearW4A16", False)]),
        (TensorRT(TENSORRT_RTX, TargetOptions(plugins="never")), "LinearW4A16", []),
    ):
        model = sample("llama").graph(ir.DataType.FLOAT16)
        QuantizeWeights(WeightScheme(4, 32, symmetric=False))(model)
        library.clear()
        target.lower(model, 512)
        assert Counter(node.op_type for node in model.graph)[op] == 21
        assert library == asked
        assert FLOAT_ACTIVATIONS in model.metadata_props


@pytest.mark.usefixtures("library")
def test_the_library_of_plugins_travels_with_the_engine(
    monkeypatch: pytest.MonkeyPatch,
    sample: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    asked: dict[str, Any] = {}

    def build(_model: Path, engine: Path, **options: Any) -> EngineFacts:
        asked.update(options)
        return replace(facts(engine), plugin_layers={"PackedLinearW4A16": 21})

    model = sample("llama").graph(ir.DataType.FLOAT16)
    QuantizeWeights(WeightScheme(4, 32, symmetric=False))(model)
    TensorRT(TENSORRT_RTX).lower(model, CONTEXT)
    write_model(model, tmp_path)
    monkeypatch.setattr(module, "build_engine", build)
    built = TensorRT(TENSORRT_RTX).build(tmp_path, CONTEXT, SilentProgress())
    assert asked["plugins"] == tmp_path / "plugins" / "libcastline_plugins.so"
    assert asked["plugins"].read_bytes() == b"a library"
    plugins = built.facts["plugins"]
    assert isinstance(plugins, dict)
    assert plugins["sha256"] == "5ab1e"
    assert plugins["layers"] == {"PackedLinearW4A16": 21}
    assert built.notes[2].startswith("engine: plugins compute 21 PackedLinearW4A16; their library")


def facts(
    engine: Path, options: EngineOptions | None = None, profiles: Any = (), **_: object
) -> EngineFacts:
    """Return what a builder would say of an engine that it was asked for so."""
    return EngineFacts(
        path=engine,
        bytes=86_000_000,
        seconds=12.5,
        peak_memory_bytes=2_400_000_000,
        edition=TENSORRT_RTX,
        tensorrt_version="1.7.1",
        compute_capabilities=() if options is None else options.compute_capabilities,
        profiles=profiles,
        layers={},
        plugin_layers={},
        weights=WeightJudgement(True, 80_000_000, WeightBytes(stored=80, expanded=300), "by size"),
        stripped=False,
        remarks=("one node may be slow",),
        log=engine.with_suffix(".log"),
    )


def test_says_which_gpus_an_engine_is_for_where_nobody_chose(
    monkeypatch: pytest.MonkeyPatch, decoder: Path
) -> None:
    monkeypatch.setattr(module, "build_engine", lambda _model, engine, **o: facts(engine, **o))
    built = TensorRT(TENSORRT_RTX).build(decoder, 4096, SilentProgress())
    assert built.notes[1].endswith(
        "past 0 to 1024; for compute capability 8.0, 8.6, 8.9, 12.0 and later (TensorRT-RTX's "
        "default)"
    )


@pytest.mark.parametrize(
    ("failure", "logged", "kept"),
    [
        (None, True, False),
        (TargetError("refused"), True, True),
        (TargetError("refused before the builder began"), False, False),
        (OutputError("the disk is full"), True, False),
        (KeyboardInterrupt(), True, False),
    ],
)
def test_the_build_log_stays_only_where_the_builder_refused(
    monkeypatch: pytest.MonkeyPatch,
    decoder: Path,
    failure: BaseException | None,
    logged: bool,
    kept: bool,
) -> None:
    def build(_model: Path, engine: Path, *, log: Path, **_: object) -> EngineFacts:
        if logged:
            log.write_text("[E] what the builder said")
        if failure is not None:
            raise failure
        return facts(engine)

    logs = decoder / "logs"
    logs.mkdir()
    monkeypatch.setattr(module, "build_engine", build)
    monkeypatch.setattr(tempfile, "tempdir", str(logs))
    with nullcontext() if failure is None else pytest.raises(type(failure)):
        TensorRT(TENSORRT_RTX).build(decoder, 512, SilentProgress())
    assert [file.name for file in logs.glob("*/*")] == ["model.engine.build.log"] * kept
    assert len(list(logs.iterdir())) == kept


def test_tells_what_was_built_and_what_could_not_be_run(
    monkeypatch: pytest.MonkeyPatch, decoder: Path
) -> None:
    asked: dict[str, Any] = {}

    def build(model: Path, engine: Path, **options: Any) -> EngineFacts:
        asked.update(options, model=model)
        return facts(engine, **options)

    monkeypatch.setattr(module, "build_engine", build)
    monkeypatch.setattr(module, "runnable_here", lambda: "this machine has no GPU")
    built = TensorRT(
        TENSORRT_RTX, TargetOptions(engine=EngineOptions(compute_capabilities=("8.9",)))
    ).build(decoder, 512, SilentProgress())
    assert asked["model"] == decoder / "model.onnx"
    assert [one["past_key_values.0.key"].max for one in asked["profiles"]] == [(4, 2, 511, 4)] * 2
    assert asked["options"].compute_capabilities == ("8.9",)
    assert asked["edition"] == TENSORRT_RTX
    assert built.facts["engine"] == "model.engine"
    assert built.facts["weights_kept_low_bit"] is True
    assert built.notes[0] == ("engine: weights stay low-bit, built in 12 s with 2.4 GB")
    assert built.notes[1] == (
        "engine: takes batch 1 to 4, past 0 to 511; for compute capability 8.9"
    )
    assert built.notes[2] == "one node may be slow"
    assert len(built.not_executed) == 1
    assert "this machine has no GPU" in built.not_executed[0]
    assert "seconds" not in built.facts, "the manifest holds no times"
    assert (built.seconds, built.peak_memory_bytes) == (12.5, 2_400_000_000)
    assert built.facts["edition"] == "tensorrt-rtx"
    assert built.facts["version"] == "1.7.1"
    assert built.facts["compute_capabilities"] == ["8.9"]
    assert (built.facts["kv_cache"], built.facts["logits"]) == ("growing", "all")


@pytest.mark.tensorrt
def test_every_architecture_becomes_an_engine(
    architecture: Any, record_property: Any, tmp_path: Path
) -> None:
    """Nothing is executed: an engine's answers need a GPU."""
    model = architecture.graph(ir.DataType.FLOAT16)
    QuantizeWeights(WeightScheme(4, 32, symmetric=True))(model)
    TensorRT(TENSORRT_RTX).lower(model, CONTEXT)
    write_model(model, tmp_path)
    built = TensorRT(TENSORRT_RTX).build(tmp_path, CONTEXT, SilentProgress())
    record_property("architecture", architecture.name)
    record_property("engine bytes", built.bytes)
    assert built.bytes is not None
    assert built.bytes > 0


@pytest.mark.tensorrt
@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.FLOAT])
def test_static_int8_activations_and_caches_become_an_engine(
    sample: Callable[[str], Any],
    activations: dict[str, Any],
    tmp_path: Path,
    dtype: ir.DataType,
    granularity: str,
) -> None:
    model = sample("llama").graph(dtype)
    names = activations["static"].quantized(model, WeightScheme(8, granularity, True))  # type: ignore[arg-type]
    scale = np.full((2, 16) if granularity == "per-channel" else 1, 0.1, np.float32)
    assert QuantizeCache(dict.fromkeys(range(3), PlannedCache(scale, scale)))(model).left == {}
    TensorRT(TENSORRT_RTX).lower(model, CONTEXT)
    path = write_model(model, tmp_path)
    facts = build_engine(
        path,
        tmp_path / "model.engine",
        profiles=engine_profiles(path, EngineOptions(), CONTEXT),
        progress=SilentProgress(),
    )
    assert facts.layers["DEQUANTIZE"] >= len(names)
    assert facts.layers["QUANTIZE"] >= 4 * 3, "a value a kind of input a layer"
    assert facts.remarks == ()


def test_an_encoders_engine_has_no_past(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def build(_model: Path, engine: Path, **options: Any) -> EngineFacts:
        asked.update(options)
        return facts(engine, **options)

    monkeypatch.setattr(module, "build_engine", build)
    ir.save(ir.from_onnx_text(ENCODER), tmp_path / "model.onnx")
    built = TensorRT(TENSORRT_RTX).build(tmp_path, 512, SilentProgress())
    assert asked["profiles"] == ({"input_ids": Shapes((1, 1), (8, 128), (32, 512))},)
    assert "batch 1 to 32, sequence 1 to 512; for compute capability" in built.notes[1]
