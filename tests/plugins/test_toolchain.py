from __future__ import annotations

import sys
from pathlib import Path

import pytest

from castline.errors import PluginError
from castline.plugins.toolchain import find_toolchain, missing_tools


def tool(folder: Path, name: str, script: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(
        Path, "is_file", lambda path: path.exists() and path.is_relative_to(tmp_path)
    )


@pytest.mark.usefixtures("nothing_installed")
def test_names_every_missing_tool_at_once_with_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(PluginError) as refusal:
        find_toolchain({"PATH": str(tmp_path)})
    for hint in ("set CUDA_HOME", "apt install g++", "pip install cmake", "pip install ninja"):
        assert hint in str(refusal.value)
    assert len(missing_tools({"PATH": str(tmp_path)})) == 4


@pytest.mark.usefixtures("nothing_installed")
def test_finds_tools_on_the_path_and_beside_python(tmp_path: Path) -> None:
    nvcc = tool(tmp_path / "tools", "nvcc", "echo 'release 12.9, V12.9.1'; echo compute_80")
    cxx = tool(tmp_path / "tools", "g++")
    cmake = tool(tmp_path / "bin", "cmake")
    ninja = tool(tmp_path / "bin", "ninja")
    found = find_toolchain({"PATH": str(tmp_path / "tools")})
    assert (found.nvcc, found.cxx, found.cmake, found.ninja) == (nvcc, cxx, cmake, ninja)
    assert found.cuda_release() == "12.9"
    assert found.architectures() == {"80"}


@pytest.mark.usefixtures("nothing_installed")
def test_cuda_home_goes_before_the_path(tmp_path: Path) -> None:
    for name in ("g++", "cmake", "ninja", "nvcc"):
        tool(tmp_path / "tools", name)
    chosen = tool(tmp_path / "cuda" / "bin", "nvcc")
    environment = {"PATH": str(tmp_path / "tools"), "CUDA_HOME": str(tmp_path / "cuda")}
    assert find_toolchain(environment).nvcc == chosen


@pytest.mark.usefixtures("nothing_installed")
def test_finds_the_compiler_of_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "site-packages"
    monkeypatch.setattr(sys, "path", [str(packages)])
    tool(packages / "nvidia" / "cu13" / "bin", "nvcc")
    assert not any("nvcc" in sentence for sentence in missing_tools({"PATH": ""}))


def test_a_compiler_that_does_not_run_is_named(tmp_path: Path) -> None:
    for name in ("g++", "cmake", "ninja"):
        tool(tmp_path, name)
    broken = tool(tmp_path / "bin", "nvcc")
    broken.write_text("#!/no/such/interpreter\n")
    found = find_toolchain({"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)})
    with pytest.raises(PluginError, match="nvcc does not run"):
        found.cuda_release()
