"""Find the tools that the plugin library is built with, and say how to install those missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from castline.errors import PluginError

_RELEASE = re.compile(r"release (\d+\.\d+)")
_WHEELS = ("nvidia/cu13", "nvidia/cuda_nvcc")  # where wheels of the compiler unpack themselves
_MISSING = {
    "nvcc": "nvcc, NVIDIA's CUDA compiler: install the CUDA toolkit 12.8 or later, or "
    "pip install 'castline[plugins]'; if it is installed, set CUDA_HOME to its folder",
    "c++": "a C++17 compiler: install g++ (Debian, Ubuntu: apt install g++), or set CXX to one",
    "cmake": "cmake 3.25 or later: pip install cmake",
    "ninja": "ninja: pip install ninja",
}


@dataclass(frozen=True)
class Toolchain:
    """The programs of a build."""

    nvcc: Path
    cxx: Path
    cmake: Path
    ninja: Path

    def environment(self) -> dict[str, str]:
        """Return the environment of a build: this one, with the libraries of CUDA's wheels.

        They have them in lib/, where nvcc looks in lib64/ alone.
        """
        folders = [str(self.nvcc.resolve().parents[1] / "lib"), os.environ.get("LIBRARY_PATH", "")]
        return {**os.environ, "LIBRARY_PATH": os.pathsep.join(filter(None, folders))}

    def cuda_release(self) -> str:
        """Return the release of CUDA, such as "13.0"."""
        match = _RELEASE.search(_output([self.nvcc, "--version"]))
        return match[1] if match else "unknown"

    def architectures(self) -> frozenset[str]:
        """Return the numbers ("89", "90") of the architectures that this nvcc makes code for."""
        return frozenset(re.findall(r"compute_(\d+)", _output([self.nvcc, "--list-gpu-arch"])))


def find_toolchain(environment: Mapping[str, str] = os.environ) -> Toolchain:
    """Return the tools.

    Raises:
        PluginError: some are missing; all of them are named, each with how to install it.
    """
    missing = missing_tools(environment)
    if missing:
        lines = "".join(f"\n  {line}" for line in missing)
        raise PluginError(f"the plugin library cannot be built here. Missing:{lines}")
    found = {name: file for name, file in _tools(environment).items() if file is not None}
    return Toolchain(found["nvcc"], found["c++"], found["cmake"], found["ninja"])


def missing_tools(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return a sentence for each tool that is not here: what it is and how to install it."""
    found = _tools(environment)
    return tuple(sentence for name, sentence in _MISSING.items() if found[name] is None)


def _tools(environment: Mapping[str, str]) -> dict[str, Path | None]:
    path = environment.get("PATH", "")
    # cmake and ninja from wheels lie beside Python, also where the environment is not activated.
    scripts = os.pathsep.join((path, str(Path(sys.executable).parent)))
    return {
        "nvcc": next(filter(Path.is_file, _nvcc_places(environment)), None),
        "c++": _which((environment.get("CXX") or "g++", "c++", "clang++"), path),
        "cmake": _which(("cmake",), scripts),
        "ninja": _which(("ninja", "ninja-build"), scripts),
    }


def _nvcc_places(environment: Mapping[str, str]) -> Iterator[Path]:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if environment.get(name):
            yield Path(environment[name]) / "bin" / "nvcc"
    on_path = _which(("nvcc",), environment.get("PATH", ""))
    if on_path is not None:
        yield on_path
    yield Path("/usr/local/cuda/bin/nvcc")
    for folder in sys.path:
        for wheel in _WHEELS:
            yield Path(folder) / wheel / "bin" / "nvcc"


def _which(names: tuple[str, ...], path: str) -> Path | None:
    found = (shutil.which(name, path=path) for name in names)
    return next((Path(file) for file in found if file is not None), None)


def _output(command: list[Path | str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PluginError(f"{command[0]} does not run: {error}") from error
    return done.stdout
