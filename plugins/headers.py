"""Find or fetch the C++ headers that the plugin library is compiled with."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from castline.errors import OutputError, PluginError

_VERSION_FILE = "NvInferVersion.h"
_VERSION_PART = r"#define (?:NV_TENSORRT_{part}|TRT_{part}_ENTERPRISE) (\d+)"


@dataclass(frozen=True)
class HeaderWheel:
    """A package whose wheel carries headers; it is unpacked and never installed."""

    requirement: str
    sha256: str
    include: str
    """The folder of the headers inside the wheel."""
    otherwise: str
    """What to do where it cannot be fetched."""


TENSORRT = HeaderWheel(
    requirement="kernel-lens==2.0.1",
    sha256="07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0",
    include="kernel_lens/include/tensorrt",
    otherwise="set TENSORRT_ROOT to a TensorRT 10 or 11 whose include/ has NvInferRuntime.h",
)
CUTLASS = HeaderWheel(
    requirement="nvidia-cutlass==4.2.0.0",
    sha256="f9599ada45c7bcb6bf53f7d3f0a7d154183e53451c01bfa59eecd37dd4a693f6",
    include="cutlass_library/source/include",
    otherwise="build without it (--no-cutlass): products of more than 256 tokens get slower",
)


def tensorrt_include(cache: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of NvInferRuntime.h: of TENSORRT_ROOT, or else of the pinned wheel.

    Raises:
        PluginError: TENSORRT_ROOT has none, or the wheel cannot be fetched.
        OutputError: the wheel cannot be written.
    """
    root = environment.get("TENSORRT_ROOT")
    if not root:
        return fetch(TENSORRT, cache)
    include = Path(root) / "include"
    if not (include / _VERSION_FILE).is_file():
        raise PluginError(
            f"TENSORRT_ROOT is {root}, but {include / _VERSION_FILE} is not there: set it to the "
            "folder of a TensorRT SDK, or unset it, and headers are fetched"
        )
    return include


def header_version(include: Path) -> str:
    """Return the TensorRT version, such as "10.14.1", that the headers in `include` are of."""
    text = (include / _VERSION_FILE).read_text()
    parts = (
        re.search(_VERSION_PART.format(part=part), text) for part in ("MAJOR", "MINOR", "PATCH")
    )
    return ".".join(part[1] if part else "?" for part in parts)


def fetch(wheel: HeaderWheel, cache: Path) -> Path:
    """Return the folder of the headers of `wheel`, downloaded and unpacked into `cache` if needed.

    Raises:
        PluginError: it cannot be downloaded, or is not the file that is expected.
        OutputError: it cannot be written.
    """
    folder = cache / wheel.requirement.replace("==", "-")
    if not folder.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as scratch:
                _unpack(_download(wheel, Path(scratch)), wheel, folder)
        except OSError as error:
            raise OutputError(f"headers cannot be written into {cache}: {error}") from error
    return folder / wheel.include


def _download(wheel: HeaderWheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not files:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip gave no reason"]
        raise PluginError(
            f"headers are in the package {wheel.requirement}, which cannot be downloaded "
            f"({reason[0]}): check the connection, or {wheel.otherwise}"
        )
    return files[0]


def _unpack(file: Path, wheel: HeaderWheel, folder: Path) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise PluginError(
            f"{file.name} has the SHA-256 {found}, expected {wheel.sha256}: somebody changed the "
            f"package; do not use it, but {wheel.otherwise}"
        )
    unpacked = file.parent / "unpacked"
    with zipfile.ZipFile(file) as archive:
        wanted = [name for name in archive.namelist() if name.startswith(f"{wheel.include}/")]
        archive.extractall(unpacked, wanted)
    if not folder.exists():  # another process may have been faster
        shutil.move(unpacked, folder)
