"""An engine of another TensorRT, GPU or plugin library is refused before it is loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from castline.compiler.package.engine_identity import engine_identity, require_runnable
from castline.compiler.package.manifest import write_manifest
from castline.errors import OutputError, TargetError

RTX: Any = SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.1.116")
FULL: Any = SimpleNamespace(__name__="tensorrt", __version__="10.14.1.48")
BUILD = {
    "engine": "model.engine",
    "edition": "tensorrt-rtx",
    "version": "1.7.1.116",
    "compute_capabilities": "default",
    "plugins": None,
}
OF_FULL = {"edition": "tensorrt", "version": "10.14.1.48", "compute_capabilities": ["8.9"]}


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    def made(**build: Any) -> Path:
        (tmp_path / "model.engine").write_bytes(b"engine")
        write_manifest(tmp_path, {"target": "tensorrt-rtx", "build": {**BUILD, **build}})
        return tmp_path

    return made


def test_the_engine_of_this_machine_is_taken(folder: Any) -> None:
    engine = require_runnable(folder(), RTX, "8.9")
    assert engine == engine_identity(folder())
    assert engine.path.read_bytes() == b"engine"
    assert engine.title == "TensorRT-RTX 1.7.1.116"
    assert require_runnable(folder(), RTX, None) == engine, "an unknown GPU is not judged"


@pytest.mark.parametrize("device", ["8.0", "8.6", "8.9", "12.0", "12.1"])
def test_the_default_of_rtx_runs_from_ampere_on(folder: Any, device: str) -> None:
    require_runnable(folder(), RTX, device)


@pytest.mark.parametrize("device", ["7.5", "9.0", "10.0"])
def test_the_default_of_rtx_runs_on_no_other(folder: Any, device: str) -> None:
    expected = rf"8\.9, 12\.0 and later \(TensorRT-RTX's default\); the GPU here has {device}"
    with pytest.raises(TargetError, match=expected):
        require_runnable(folder(), RTX, device)


def test_an_engine_for_one_gpu_runs_on_no_other(folder: Any) -> None:
    made = folder(compute_capabilities=["8.9", "12.0"])
    require_runnable(made, RTX, "12.0")
    with pytest.raises(TargetError, match=r"for compute capability 8\.9, 12\.0; .* has 8\.6"):
        require_runnable(made, RTX, "8.6")


@pytest.mark.parametrize(
    ("chosen", "device", "runs"),
    [
        ("none", "8.9", True),
        ("none", "12.0", False),
        ("same-compute-capability", "8.9", True),
        ("same-compute-capability", "8.6", False),
        ("ampere+", "8.0", True),
        ("ampere+", "12.0", True),
        ("ampere+", "7.5", False),
    ],
)
def test_hardware_compatibility_of_tensorrt(
    folder: Any, chosen: str, device: str, runs: bool
) -> None:
    made = folder(**OF_FULL, hardware_compatibility=chosen)
    if runs:
        require_runnable(made, FULL, device)
        return
    with pytest.raises(TargetError, match=f"the GPU here has {device}"):
        require_runnable(made, FULL, device)


@pytest.mark.parametrize(
    ("version", "compatible", "taken"),
    [
        ("10.14.1.48", False, True),
        ("10.14.1.49", False, False),
        ("10.14.1.49", True, True),
        ("10.15.0.1", True, True),
        ("10.13.9.9", True, False),
        ("11.0.0.1", True, False),
    ],
)
def test_versions_that_take_an_engine(
    folder: Any, version: str, compatible: bool, taken: bool
) -> None:
    made = folder(**OF_FULL, version_compatible=compatible)
    here: Any = SimpleNamespace(__name__="tensorrt", __version__=version)
    if taken:
        require_runnable(made, here, "8.9")
        return
    with pytest.raises(
        TargetError, match=rf"built with TensorRT 10\.14\.1\.48.*here is .*{version}"
    ):
        require_runnable(made, here, "8.9")


def test_everything_that_differs_is_named_with_the_way_out(folder: Any) -> None:
    made = folder(compute_capabilities=["8.6"])
    (made / "model.onnx").touch()
    with pytest.raises(TargetError) as caught:
        require_runnable(made, FULL, "8.9")
    text = str(caught.value)
    assert "built with TensorRT-RTX 1.7.1.116, and TensorRT 10.14.1.48 loads it here" in text
    assert "built for compute capability 8.6; the GPU here has 8.9" in text
    assert f"castline build {made} -o {made}-here" in text
    (made / "model.onnx").unlink()
    with pytest.raises(TargetError, match="Copy the compiled folder here"):
        require_runnable(made, FULL, "8.9")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"eng", "has 3 bytes, expected 6"), (b"Engine", "has other content"), (None, "is missing")],
)
def test_an_engine_that_is_not_whole_is_not_loaded(
    folder: Any, content: bytes | None, words: str
) -> None:
    made = folder()
    (made / "model.engine").unlink()
    if content is not None:
        (made / "model.engine").write_bytes(content)
    with pytest.raises(OutputError, match=rf"model\.engine {words}.*is not loaded"):
        require_runnable(made, RTX, "8.9")


def test_an_engine_without_its_weights_is_told_how_to_get_them(folder: Any) -> None:
    with pytest.raises(TargetError, match=r"built without its weights.*--refit"):
        require_runnable(folder(weights_stripped=True), RTX, "8.9")


def test_another_plugin_library_is_told(folder: Any, tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(b"mine")
    plugins = {"library": "lib.so", "sha256": hashlib.sha256(b"mine").hexdigest()}
    made = folder(plugins=plugins)
    require_runnable(made, RTX, "8.9")
    library.write_bytes(b"other")
    with pytest.raises(OutputError, match="is not loaded; copy the folder again"):
        require_runnable(made, RTX, "8.9")


def test_a_folder_without_an_engine_is_told(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"target": "onnxruntime", "build": {}})
    with pytest.raises(OutputError, match="has no engine: it was made for the target onnxruntime"):
        engine_identity(tmp_path)


def test_a_manifest_without_a_version_is_refused(folder: Any) -> None:
    with pytest.raises(OutputError, match="expected the edition and the version"):
        engine_identity(folder(version=None))
