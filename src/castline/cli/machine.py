"""What this machine has: libraries, GPUs, tools, folders. Imports none of the libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Library:
    """A distribution, or several that provide the same, and what is lost without it."""

    distributions: tuple[str, ...]
    without_it: str
    install: str

    def version(self) -> str | None:
        """The version of the first distribution that is installed; None if none is."""
        for name in self.distributions:
            try:
                found = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
            return found if name == self.distributions[0] else f"{found} ({name})"
        return None


_AGAIN = "pip install --force-reinstall castline"
_NO_COMPILING = "no checkpoint can be read or compiled"
LIBRARIES = (
    Library(("torch",), _NO_COMPILING, _AGAIN),
    Library(("transformers",), _NO_COMPILING, _AGAIN),
    Library(("onnx",), _NO_COMPILING, _AGAIN),
    Library(("onnx-ir",), _NO_COMPILING, _AGAIN),
    Library(("onnxscript",), _NO_COMPILING, _AGAIN),
    Library(("safetensors",), "no safetensors checkpoint can be read", _AGAIN),
    Library(("gguf",), "no GGUF file can be read", _AGAIN),
    Library(("tokenizers",), "no text can be generated or judged", _AGAIN),
    Library(("polygraphy",), "no engine is built, no tensor compared", _AGAIN),
    Library(
        ("onnxruntime", "onnxruntime-gpu"),
        "nothing is run: no generate, no check, no gate",
        "pip install onnxruntime (with an NVIDIA GPU: onnxruntime-gpu in its place)",
    ),
    Library(
        ("onnxruntime-genai", "onnxruntime-genai-cuda"),
        "generate --runtime genai; ONNX Runtime itself runs the same folders",
        "pip install onnxruntime-genai",
    ),
    Library(
        ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
        "the target tensorrt-rtx",
        "pip install tensorrt-rtx-cu13",
    ),
)
OFFLINE_FLAGS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as its driver describes it."""

    name: str
    compute_capability: str
    memory: str
    driver: str


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the driver shows; none without a driver."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return ()
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    answer = _answer([nvidia_smi, query, "--format=csv,noheader"])
    rows = [tuple(map(str.strip, line.split(","))) for line in answer.splitlines()]
    return tuple(Gpu(*row) for row in rows if len(row) == 4)


def cuda_compiler() -> str | None:
    """The path and release of nvcc; None if there is none."""
    path = shutil.which("nvcc")
    if path is None:
        return None
    lines = _answer([path, "--version"]).splitlines()
    release = next((line.strip() for line in lines if "release" in line), "release unknown")
    return f"{path}: {release}"


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """Where huggingface_hub keeps downloaded checkpoints."""
    if "HF_HUB_CACHE" in environment:
        return Path(environment["HF_HUB_CACHE"])
    base = environment.get("XDG_CACHE_HOME", "~/.cache")
    home = environment.get("HF_HOME", f"{base}/huggingface")
    return Path(home).expanduser() / "hub"


def free_space(folder: Path) -> int:
    """Free bytes on the disk that holds `folder`, or would hold it if it existed."""
    present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(present).free


def _answer(command: list[str]) -> str:
    """What a tool prints; nothing if it fails, since a broken tool is as good as none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
