"""Find TensorRT-RTX, prepare the environment of its builder, and say whether engines run here."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from castline.compiler.targets.tensorrt import environment
from castline.compiler.targets.tensorrt.edition import TENSORRT, TENSORRT_RTX
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.environment import (
    builder_environment,
    device_capability,
    not_executed,
    require_builder,
    runnable_here,
)
from castline.errors import TargetError


def install(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    """Let these modules be installed in these folders, and no other."""
    specs = {
        name: SimpleNamespace(submodule_search_locations=[str(folder)])
        for name, folder in folders.items()
    }
    monkeypatch.setattr(importlib.util, "find_spec", specs.get)


def test_what_to_install_is_said_where_tensorrt_rtx_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, {})
    with pytest.raises(TargetError) as caught:
        require_builder(TENSORRT_RTX)
    assert "pip install tensorrt-rtx-cu13" in str(caught.value)
    assert "Everything else works without it" in str(caught.value)


def test_an_installed_tensorrt_rtx_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, {"tensorrt_rtx": tmp_path})
    require_builder(TENSORRT_RTX)


def test_tensorrt_says_what_it_needs_and_what_works_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, {})
    with pytest.raises(TargetError, match=r"needs TensorRT, which is not installed: pip install"):
        require_builder(TENSORRT)
    install(monkeypatch, {"tensorrt": tmp_path})
    monkeypatch.setattr(environment, "runnable_here", lambda: "this machine has no NVIDIA driver")
    with pytest.raises(TargetError) as caught:
        require_builder(TENSORRT)
    assert "builds on the GPU that the engine is for, and this machine has no" in str(caught.value)
    assert "castline build OUT --target tensorrt makes" in str(caught.value)
    monkeypatch.setattr(environment, "runnable_here", lambda: None)
    require_builder(TENSORRT)


def test_stripping_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, {"tensorrt_rtx": tmp_path})
    monkeypatch.setattr(environment, "runnable_here", lambda: "there is none")
    with pytest.raises(TargetError, match="needs a GPU to strip an engine of its weights, and th"):
        require_builder(TENSORRT_RTX, EngineOptions(strip_weights=True))
    monkeypatch.setattr(environment, "runnable_here", lambda: None)
    require_builder(TENSORRT_RTX, EngineOptions(strip_weights=True))


def test_an_option_that_an_edition_lacks_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {})
    with pytest.raises(TargetError, match="Leave --version-compatible out"):
        require_builder(TENSORRT_RTX, EngineOptions(version_compatible=True))


def test_tensorrts_library_is_linked_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel, links = tmp_path / "wheel", tmp_path / "links"
    wheel.mkdir()
    links.mkdir()
    (wheel / "libnvinfer.so.10").write_bytes(b"library")
    install(monkeypatch, {"tensorrt_libs": wheel})
    prepared = builder_environment(links, TENSORRT)
    assert (links / "libnvinfer.so").read_bytes() == b"library"
    assert prepared["POLYGRAPHY_USE_TENSORRT_RTX"] == "0"


def test_the_wheels_library_is_linked_by_the_name_the_parser_opens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel, links = tmp_path / "wheel", tmp_path / "links"
    wheel.mkdir()
    links.mkdir()
    (wheel / "libtensorrt_rtx.so.1").write_bytes(b"library")
    (wheel / "libtensorrt_onnxparser_rtx.so.1").write_bytes(b"parser")
    install(monkeypatch, {"tensorrt_rtx_libs": wheel})
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/a:/opt/b")

    prepared = builder_environment(links, TENSORRT_RTX)

    assert (links / "libtensorrt_rtx.so").read_bytes() == b"library"
    assert prepared["LD_LIBRARY_PATH"] == f"{links}:/opt/a:/opt/b"
    assert prepared["POLYGRAPHY_USE_TENSORRT_RTX"] == "1"


def test_without_a_library_path_the_links_are_the_whole_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "libtensorrt_rtx.so.1").write_bytes(b"library")
    install(monkeypatch, {"tensorrt_rtx_libs": tmp_path})
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert builder_environment(tmp_path, TENSORRT_RTX)["LD_LIBRARY_PATH"] == str(tmp_path)


def test_an_sdk_without_wheels_keeps_its_own_library_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, {"tensorrt_rtx": tmp_path})
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/sdk/lib")
    assert builder_environment(tmp_path, TENSORRT_RTX)["LD_LIBRARY_PATH"] == "/opt/sdk/lib"
    assert list(tmp_path.iterdir()) == []


class Driver:
    """A CUDA driver that answers as it is told."""

    def __init__(self, status: int, devices: int) -> None:
        self.status = status
        self.devices = devices

    def cuInit(self, _flags: int) -> int:  # noqa: N802 - the driver's name
        return self.status

    def cuDeviceGetAttribute(self, value: object, attribute: int, _device: int) -> int:  # noqa: N802
        told = ctypes.cast(value, ctypes.POINTER(ctypes.c_int))  # type: ignore[arg-type]
        told[0] = {75: 8, 76: 9}[attribute]
        return self.status

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self.devices  # type: ignore[arg-type]
        return 0


@pytest.mark.parametrize(
    ("status", "devices", "reason"),
    [(100, 0, "cuInit returned 100"), (0, 0, "finds no GPU"), (0, 1, None)],
)
def test_what_the_driver_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, status: int, devices: int, reason: str | None
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(status, devices))
    found = runnable_here()
    assert found == reason if reason is None else reason in str(found)


def test_a_machine_without_a_driver_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    reason = runnable_here()
    assert reason is not None
    assert "no NVIDIA driver" in reason
    assert not_executed(reason).startswith(
        "The engine was built but not executed, since this machine has no NVIDIA driver"
    )


def test_the_capability_of_the_first_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(0, 1))
    assert device_capability() == "8.9"
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(0, 0))
    assert device_capability() is None


def test_gpus_that_tensorrt_builds_nothing_for_are_named_before_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, {"tensorrt_rtx": tmp_path})
    known = SimpleNamespace(__members__={"NONE": 0, "SM89": 1, "SM120": 2})
    module = SimpleNamespace(__version__="1.7", ComputeCapability=known)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    require_builder(TENSORRT_RTX, EngineOptions(compute_capabilities=("8.9", "12.0")))
    with pytest.raises(TargetError, match=r"9\.9: TensorRT-RTX 1\.7 builds for 8\.9, 12\.0\."):
        require_builder(TENSORRT_RTX, EngineOptions(compute_capabilities=("8.9", "9.9")))


def test_a_timing_cache_needs_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, {"tensorrt": tmp_path})
    monkeypatch.setattr(environment, "runnable_here", lambda: None)
    require_builder(TENSORRT, EngineOptions(timing_cache=tmp_path / "cache"))
    with pytest.raises(TargetError, match=r"there is no folder .*/none to write it into"):
        require_builder(TENSORRT, EngineOptions(timing_cache=tmp_path / "none" / "cache"))
