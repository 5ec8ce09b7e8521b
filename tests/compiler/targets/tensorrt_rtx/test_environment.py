"""Find TensorRT-RTX, prepare the environment of its builder, and say whether engines run here."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from castline.compiler.targets.tensorrt_rtx.environment import (
    builder_environment,
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
        require_builder()
    assert "pip install tensorrt-rtx-cu13" in str(caught.value)
    assert "Everything else works without it" in str(caught.value)


def test_an_installed_tensorrt_rtx_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, {"tensorrt_rtx": tmp_path})
    require_builder()


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

    environment = builder_environment(links)

    assert (links / "libtensorrt_rtx.so").read_bytes() == b"library"
    assert environment["LD_LIBRARY_PATH"] == f"{links}:/opt/a:/opt/b"
    assert environment["POLYGRAPHY_USE_TENSORRT_RTX"] == "1"


def test_without_a_library_path_the_links_are_the_whole_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "libtensorrt_rtx.so.1").write_bytes(b"library")
    install(monkeypatch, {"tensorrt_rtx_libs": tmp_path})
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert builder_environment(tmp_path)["LD_LIBRARY_PATH"] == str(tmp_path)


def test_an_sdk_without_wheels_keeps_its_own_library_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, {"tensorrt_rtx": tmp_path})
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/sdk/lib")
    assert builder_environment(tmp_path)["LD_LIBRARY_PATH"] == "/opt/sdk/lib"
    assert list(tmp_path.iterdir()) == []


class Driver:
    """A CUDA driver that answers as it is told."""

    def __init__(self, status: int, devices: int) -> None:
        self.status = status
        self.devices = devices

    def cuInit(self, _flags: int) -> int:  # noqa: N802 - the driver's name
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
