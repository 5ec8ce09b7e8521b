"""Build the engine of a compiled folder again: with other options, or for another TensorRT."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.package.manifest import read_manifest, verify, write_manifest
from castline.compiler.rebuilding import rebuild, refit
from castline.compiler.targets.context import note_context
from castline.compiler.targets.tensorrt import environment, target
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.sizes import Sizes
from castline.compiler.targets.write import write_model
from castline.errors import OutputError, TargetError

FAKE = Path(__file__).parent / "targets" / "tensorrt" / "fake"
GRAPH = """<ir_version: 10, opset_import: ["" : 23]>
g (float16[B, S, 512] inputs_embeds) => (float16[B, S, 4] y)
{ y = MatMul (inputs_embeds, w) }"""


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """Return what a compilation for tensorrt-rtx leaves: a model, an engine, two accounts."""
    model = ir.from_onnx_text(GRAPH)
    weight = model.graph[0].inputs[1]
    assert weight is not None
    weight.const_value = ir.Tensor(np.ones((512, 4), np.float16), name="w")
    weight.shape, weight.dtype = weight.const_value.shape, weight.const_value.dtype
    model.graph.initializers.add(weight)
    note_context(model, 64)
    folder = tmp_path / "out"
    folder.mkdir()
    write_model(model, folder)
    (folder / "model.engine").write_bytes(b"engine" * 100)
    (folder / "tokenizer.json").write_text("{}")
    report = {"target": "tensorrt-rtx", "bytes": 600, "notes": ["a note"], "seconds": 9.0}
    (folder / "report.json").write_text(json.dumps(report))
    page = "<header>\n<h1>tiny</h1>\n</header>\n<section>the compilation</section>\n"
    (folder / "report.html").write_text(page)
    build = {"engine": "model.engine", "edition": "tensorrt-rtx", "version": "1.7.1"}
    facts = {"target": "tensorrt-rtx", "build": build, "bits_per_weight": 6.0, "recipe": {"a": 1}}
    write_manifest(folder, facts)
    return folder


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Play a TensorRT of a version, and a GPU."""

    def install(version: str) -> None:
        monkeypatch.syspath_prepend(FAKE)
        monkeypatch.setenv("PYTHONPATH", str(FAKE), prepend=":")
        monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)
        monkeypatch.setattr(environment, "runnable_here", lambda: None)
        monkeypatch.setattr(target, "device_capability", lambda: "8.9")

    return install


def told(folder: Path) -> dict[str, Any]:
    """Return what the engine of a folder says of itself."""
    content: dict[str, Any] = json.loads((folder / "model.engine").read_text())
    return content


def test_a_folder_gets_an_engine_of_the_other_tensorrt(
    compiled: Path, tmp_path: Path, tensorrt: Callable[[str], None]
) -> None:
    tensorrt("11.4.0")
    before = (compiled / "manifest.json").read_bytes()
    outcome = rebuild(
        compiled,
        tmp_path / "other",
        target="tensorrt",
        engine=EngineOptions(Sizes(max_input_len=16)),
    )
    assert told(tmp_path / "other")["profiles"][0]["inputs_embeds"][2] == [32, 16, 512]
    manifest = read_manifest(tmp_path / "other")
    assert verify(tmp_path / "other") == []
    assert (manifest["target"], manifest["recipe"]) == ("tensorrt", {"a": 1})
    build = manifest["build"]
    assert isinstance(build, dict)
    assert (build["version"], build["compute_capabilities"]) == ("11.4.0", ["8.9"])
    assert manifest["bits_per_weight"] == pytest.approx(6.0 * outcome.bytes / 600)
    report = json.loads((tmp_path / "other" / "report.json").read_text())
    assert (report["bytes"], report["notes"]) == (outcome.bytes, ["a note"])
    assert report["build_peak_memory_bytes"] == outcome.peak_memory_bytes
    page = (tmp_path / "other" / "report.html").read_text()
    assert f"is of tensorrt 11.4.0: {outcome.bytes} B" in page
    assert page.endswith("<section>the compilation</section>\n")
    assert "11.4.0" not in (compiled / "report.html").read_text()
    assert (compiled / "manifest.json").read_bytes() == before
    assert json.loads((compiled / "report.json").read_text())["bytes"] == 600


@pytest.mark.tensorrt
def test_a_folder_gets_another_engine_of_tensorrt_rtx(compiled: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    outcome = rebuild(compiled, engine=EngineOptions(compute_capabilities=("8.9", "12.0")))
    assert outcome.target == "tensorrt-rtx"
    assert outcome.bytes == (compiled / "model.engine").stat().st_size > 512 * 4 * 2
    build = read_manifest(compiled)["build"]
    assert isinstance(build, dict)
    assert build["compute_capabilities"] == ["8.9", "12.0"]
    assert verify(compiled) == []


def test_without_a_new_folder_the_old_one_is_replaced(
    compiled: Path, tensorrt: Callable[[str], None]
) -> None:
    tensorrt("10.14.1")
    rebuild(compiled, target="tensorrt")
    assert told(compiled)["version"] == "10.14.1"
    assert "is of tensorrt 10.14.1" in (compiled / "report.html").read_text()
    assert verify(compiled) == []
    assert [path.name for path in compiled.parent.iterdir()] == ["out"]


def test_a_stripped_engine_gets_its_weights_back(
    compiled: Path, tmp_path: Path, tensorrt: Callable[[str], None]
) -> None:
    tensorrt("10.14.1")
    rebuild(compiled, target="tensorrt", engine=EngineOptions(strip_weights=True))
    assert told(compiled)["weights"] == {}
    refit(compiled, tmp_path / "whole")
    assert told(tmp_path / "whole")["weights"] == {"w": 512 * 4 * 0x3C}  # 1.0 is 00 3C
    build = read_manifest(tmp_path / "whole")["build"]
    assert isinstance(build, dict)
    assert build["weights_stripped"] is False
    assert verify(tmp_path / "whole") == []
    with pytest.raises(OutputError, match="its engine has its weights"):
        refit(tmp_path / "whole")
    tensorrt("11.4.0")
    with pytest.raises(TargetError, match=r"TensorRT 11\.4\.0 does not load model\.engine"):
        refit(compiled)


def test_a_stripped_engine_that_brings_host_code_gets_its_weights_back(
    compiled: Path, tensorrt: Callable[[str], None]
) -> None:
    tensorrt("10.14.1")
    options = EngineOptions(strip_weights=True, version_compatible=True)
    rebuild(compiled, target="tensorrt", engine=options)
    refit(compiled)
    assert told(compiled)["weights"].keys() == {"w"}


def test_a_failed_build_leaves_the_folder_as_it_was(
    compiled: Path, tensorrt: Callable[[str], None]
) -> None:
    tensorrt("9.3.0")
    before = {path.name: path.read_bytes() for path in compiled.iterdir()}
    with pytest.raises(TargetError, match="has no strongly typed networks"):
        rebuild(compiled, target="tensorrt")
    assert {path.name: path.read_bytes() for path in compiled.iterdir()} == before
    assert [path.name for path in compiled.parent.iterdir()] == ["out"]


def test_a_damaged_engine_may_be_built_again_and_a_damaged_model_not(
    compiled: Path, tensorrt: Callable[[str], None]
) -> None:
    tensorrt("10.14.1")
    (compiled / "model.engine").write_bytes(b"cut")
    rebuild(compiled, target="tensorrt")
    data = compiled / "model.onnx.data"
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(OutputError, match=r"model\.onnx\.data has other content"):
        rebuild(compiled, target="tensorrt")


def test_a_fixed_cache_keeps_its_capacity(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"target": "tensorrt-rtx", "build": {"kv_cache": "fixed"}})
    with pytest.raises(TargetError, match=r"--max-seq-len 8: the cache of .* was compiled with"):
        rebuild(tmp_path, engine=EngineOptions(Sizes(max_seq_len=8)))


def test_a_folder_of_another_target_has_no_engine(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"target": "onnxruntime", "build": {}})
    with pytest.raises(OutputError, match=r"target onnxruntime, which has no engine. Compile"):
        rebuild(tmp_path)


def test_no_torch_is_needed() -> None:
    code = (
        "import sys, castline.compiler.rebuilding\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_lengths_that_the_model_does_not_reach_are_refused(
    compiled: Path, tensorrt: Callable[[str], None]
) -> None:
    tensorrt("10.14.1")
    with pytest.raises(TargetError, match="--max-seq-len 65: the model reads 64 tokens at most"):
        rebuild(compiled, target="tensorrt", engine=EngineOptions(Sizes(max_seq_len=65)))


def test_the_new_folder_is_not_inside_the_old_one(compiled: Path) -> None:
    for again in (rebuild, refit):
        with pytest.raises(OutputError, match="whose manifest would not list it"):
            again(compiled, compiled / "new")
