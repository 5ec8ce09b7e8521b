"""The built plugin library, TensorRT-RTX with it, and a program that asks a plugin questions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from castline.plugins.cache import plugin_cache
from castline.plugins.headers import tensorrt_include
from castline.plugins.library import Library, find_library, register
from castline.plugins.toolchain import find_toolchain


@dataclass(frozen=True)
class Answers:
    """What a plugin answered, by question, and the reasons it logged."""

    said: dict[str, str]
    reasons: str


@pytest.fixture(scope="session")
def plugin_library() -> Library:
    """The library; `castline plugins build` builds it."""
    return find_library()


@pytest.fixture(scope="session")
def ask(
    plugin_library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Answers]:
    """Ask a plugin of an op with these fields, for tensors such as "half:1,5,64"."""
    program = tmp_path_factory.mktemp("answers") / "plugin_answers"
    source = Path(__file__).with_name("plugin_answers.cpp")
    headers = tensorrt_include(plugin_cache() / "headers")
    nvcc = find_toolchain().nvcc  # it knows where CUDA's headers are
    command = [nvcc, "-std=c++17", "-isystem", headers, source, "-o", program, "-ldl"]
    subprocess.run(command, check=True)

    def answers(op: str, *tensors: str, **fields: int) -> Answers:
        given = [f"{name}={value}" for name, value in fields.items()]
        asked = [str(program), str(plugin_library.path), op, *given, "--", *tensors]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        said = dict(line.split("=", 1) for line in done.stdout.splitlines())
        return Answers(said, done.stderr)

    return answers


@pytest.fixture(scope="session")
def trt(plugin_library: Library) -> Any:
    """TensorRT-RTX, with our plugins registered."""
    tensorrt = pytest.importorskip("tensorrt_rtx")
    tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))  # starts the library, and its registry
    register(plugin_library.path, tensorrt)
    return tensorrt
