"""An output folder is run by what suits it, and what is missing is told with the way out.

Engines run on a GPU and a TensorRT that are fake, see fake_cuda.py; tests marked gpu build and run
real ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from castline.compiler import runner
from castline.compiler.package.manifest import write_manifest
from castline.compiler.rebuilding import rebuild, refit
from castline.compiler.recheck import check_output
from castline.compiler.recipes.load import load_recipe
from castline.compiler.runner import open_runner
from castline.compiler.targets.genai_session import GenaiSession
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.tensorrt.cuda import Cuda
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.engine_session import EngineSession
from castline.errors import OutputError, TargetError

PROMPT = np.array([[5, 9, 120, 33, 7]])
BUILD = {
    "engine": "model.engine",
    "edition": "tensorrt",
    "version": "10.9.0.34",
    "compute_capabilities": ["8.9"],
    "plugins": None,
}


@pytest.fixture
def trt(fake_gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU and TensorRT 10.9 on this machine."""
    trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver())
    monkeypatch.setattr(runner, "runnable_here", lambda: None)
    monkeypatch.setattr(runner, "tensorrt_module", lambda _edition: trt)
    monkeypatch.setattr(Cuda, "open", classmethod(lambda cls: cls(trt.driver)))
    return trt


@pytest.fixture
def folder(tiny: Any, fake_gpu: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """Write an output folder with an engine of the tiny Llama; arguments are of the manifest."""

    def made(**build: Any) -> Path:
        graph = tiny("llama").graph
        # ONNX Runtime refuses external data outside of a model's own folder.
        onnx.save(onnx.load(graph), tmp_path / "model.onnx")
        cache = {
            f"past_key_values.{layer}.{slot}": ((1, 2, 0, 32), (1, 2, 40, 32))
            for layer in range(2)
            for slot in ("key", "value")
        }
        profiles = [
            {
                "input_ids": ((1, 1), (1, most)),
                "position_ids": ((1, 1), (1, most)),
                "attention_mask": ((1, 1), (1, 40 + most)),
                **cache,
            }
            for most in (8, 1)
        ]
        engine = fake_gpu.serialized(tmp_path / "model.onnx", profiles)
        (tmp_path / "model.engine").write_bytes(engine)
        config = {"model": {"context_length": 20, "decoder": {"filename": "model.onnx"}}}
        (tmp_path / "genai_config.json").write_text(json.dumps(config))
        write_manifest(tmp_path, {"target": "tensorrt", "build": {**BUILD, **build}})
        return tmp_path

    return made


@pytest.mark.usefixtures("trt")
def test_an_engine_is_run_where_there_is_one(folder: Any) -> None:
    found = open_runner(folder())
    assert isinstance(found, EngineSession)
    expected = list(DecoderSession.open(folder(), threads=1).generate(PROMPT, max_new_tokens=6))
    assert list(found.generate(PROMPT, max_new_tokens=6)) == expected
    assert isinstance(open_runner(folder() / "model.engine"), EngineSession)


@pytest.mark.usefixtures("trt")
def test_the_context_length_of_the_model_counts(folder: Any) -> None:
    found = open_runner(folder())
    assert isinstance(found, EngineSession)
    assert found.context_length == 20


def test_the_graph_beside_an_engine_runs_when_asked_for(folder: Any) -> None:
    for path, runtime in ((folder() / "model.onnx", "auto"), (folder(), "onnxruntime")):
        found = open_runner(path, runtime, threads=1)
        assert isinstance(found, DecoderSession)


def test_a_folder_for_cpus_is_run_by_onnx_runtime_unless_asked_otherwise(
    published: tuple[Any, Path],
) -> None:
    pytest.importorskip("onnxruntime_genai")
    assert isinstance(open_runner(published[1], threads=1), DecoderSession)
    assert isinstance(open_runner(published[1], "genai", threads=1), GenaiSession)


def test_a_folder_for_a_provider_is_run_by_onnxruntime_genai(
    published: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((published[1] / "genai_config.json").read_text())
    config["model"]["decoder"]["session_options"]["provider_options"] = [{"cuda": {}}]
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    asked = []
    monkeypatch.setattr(GenaiSession, "open", lambda *args, **_: asked.append(args))
    open_runner(tmp_path)
    assert asked == [(tmp_path,)]


def test_without_a_gpu_the_reason_and_the_way_out_are_told(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "runnable_here", lambda: "this machine has no NVIDIA driver")
    expected = (
        r"model\.engine: is an engine of TensorRT 10\.9\.0\.34, which needs an NVIDIA GPU, and "
        r"this machine has no NVIDIA driver\. Run it where there is one\.\nThe graph it was built "
        r"from runs on the CPU: castline generate .* PROMPT --runtime onnxruntime\."
    )
    with pytest.raises(TargetError, match=expected):
        open_runner(folder())
    made = folder()
    (made / "model.onnx").unlink()
    with pytest.raises(TargetError, match=r"where there is one\.$"):
        open_runner(made)


def test_without_tensorrt_the_package_is_told(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "runnable_here", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TargetError, match=r"module tensorrt cannot be imported.*pip install"):
        open_runner(folder())


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        ({"version": "10.8.0.1"}, "built with TensorRT 10.8.0.1.*here is TensorRT 10.9.0.34"),
        ({"compute_capabilities": ["12.0"]}, "capability 12.0; the GPU here has 8.9"),
        ({"weights_stripped": True}, "stripped of its weights. Put them back: castline build"),
    ],
)
def test_an_engine_that_cannot_run_here_is_refused_with_the_reason(
    trt: Any, folder: Any, build: dict[str, Any], reason: str
) -> None:
    with pytest.raises(TargetError, match=f"(?s){reason}.*runs on the CPU"):
        open_runner(folder(**build))
    assert trt.contexts == [], "nothing was loaded"


def test_an_engine_cut_short_is_refused_before_it_is_loaded(trt: Any, folder: Any) -> None:
    engine = folder() / "model.engine"
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(OutputError, match=r"model\.engine has \d+ bytes, expected \d+"):
        open_runner(engine)
    assert trt.contexts == []


def test_a_version_compatible_engine_may_bring_host_code(trt: Any, folder: Any) -> None:
    allowed = []
    made = trt.Runtime

    def runtime(logger: Any) -> Any:
        allowed.append(made(logger))
        return allowed[-1]

    trt.Runtime = runtime
    for compatible in (False, True):
        open_runner(folder(version_compatible=compatible))
    assert [one.engine_host_code_allowed for one in allowed] == [False, True]


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("kv_cache", ["growing", "fixed"])
@pytest.mark.parametrize("logits", ["all", "last"])
@pytest.mark.parametrize("name", ["float", "w4a16-rtn-sym"])
def test_a_real_engine_gives_the_text_of_its_graph(
    source: str, tmp_path: Path, compiled: Any, kv_cache: Any, logits: Any, name: str
) -> None:
    compiled(
        source,
        tmp_path / "out",
        load_recipe(name, () if name == "float" else ("weights.group_size=64",)),
        target="tensorrt-rtx",
        options=TargetOptions(kv_cache=kv_cache, logits=logits),
    )
    graph = DecoderSession.open(tmp_path / "out", threads=1)
    engine = open_runner(tmp_path / "out")
    for length in (5, 40, 200):
        prompt = np.random.default_rng(length).integers(3, 150, (1, length))
        text = list(engine.generate(prompt, max_new_tokens=24))
        assert len(text) == 24
        # In float16 two tokens may be equally likely: what the engine chose is all but the best.
        rows = graph.logits(np.append(prompt, [text[:-1]], axis=1))[0, length - 1 :]
        lost = rows.max(axis=-1) - rows[np.arange(24), text]
        assert lost.max() <= 0.01 * np.abs(rows).max()


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_a_real_engine_without_weights_gets_them_back(
    source: str, tmp_path: Path, compiled: Any
) -> None:
    whole, stripped, refitted = (tmp_path / name for name in ("whole", "stripped", "refitted"))
    compiled(source, whole, load_recipe("float"), target="tensorrt-rtx")
    rebuild(whole, stripped, engine=EngineOptions(strip_weights=True))
    sizes = [(folder / "model.engine").stat().st_size for folder in (whole, stripped)]
    assert sizes[1] < sizes[0]
    refit(stripped, refitted)
    expected = list(open_runner(whole).generate(PROMPT, max_new_tokens=8))
    assert list(open_runner(refitted).generate(PROMPT, max_new_tokens=8)) == expected


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_a_real_engine_is_compared_with_its_checkpoint(
    source: str, evaluation_text: str, tmp_path: Path, compiled: Any
) -> None:
    compiled(source, tmp_path / "out", load_recipe("float"), target="tensorrt-rtx")
    outcome = check_output(tmp_path / "out", evaluation_text=evaluation_text, threads=1)
    assert outcome.not_executed == ()
    assert outcome.language is not None
    assert outcome.language.kl_divergence < 0.01
