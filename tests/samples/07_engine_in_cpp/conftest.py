"""Compile the program, and what stands in for CUDA and TensorRT; write folders that it reads."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from castline.plugins.cache import plugin_cache
from castline.plugins.headers import TENSORRT, fetch
from castline.plugins.toolchain import find_toolchain

HERE = Path(__file__).parent
SAMPLE = Path(__file__).resolve().parents[3] / "samples" / HERE.name
METHOD = re.compile(r"virtual\s+([^;(]*?)(\w+)\(([^;]*)\)\s*(const)?\s*(noexcept)?\s*=\s*0;")
INTERFACES = {
    "NvInferImpl.h": ("VRuntime", "VCudaEngine", "VExecutionContext", "VRuntimeConfig"),
    "NvInferRuntimeCommon.h": ("IPluginRegistry",),
}
FLOAT, HALF, BFLOAT16 = 0, 1, 7  # nvinfer1::DataType


@dataclass(frozen=True)
class Built:
    """The program, and the folder of the libraries that it is run with."""

    program: Path
    fakes: Path


@dataclass(frozen=True)
class Ran:
    """What a run printed, and what the fake CUDA counted."""

    code: int
    out: str
    error: str
    counts: Mapping[str, int]

    @property
    def tokens(self) -> list[int]:
        return [int(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the program as its README says, and the two fakes."""
    folder = tmp_path_factory.mktemp("engine_in_cpp")
    headers = fetch(TENSORRT, plugin_cache() / "headers")
    return build(folder, headers, "libnvinfer.so.10")


@pytest.fixture(scope="session")
def built_for_rtx(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build them for TensorRT-RTX: its headers are not to be had, so those of TensorRT are edited.

    They get the names of TensorRT-RTX that the program uses.
    """
    folder = tmp_path_factory.mktemp("engine_in_cpp_rtx")
    headers = folder / "headers"
    headers.mkdir()
    for header in fetch(TENSORRT, plugin_cache() / "headers").glob("*.h"):
        text = header.read_text()
        for there, added in OF_RTX.items():
            text = text.replace(there, added + there)
        (headers / header.name).write_text(text)
    return build(folder, headers, "libtensorrt_rtx.so.10")


OF_RTX = {
    "#define NV_TENSORRT_MAJOR": "#define TRT_MAJOR_RTX 1\n",
    "class IRuntimeConfig : public": "enum class CudaGraphStrategy { kWHOLE_GRAPH_CAPTURE };\n",
    "    apiv::VRuntimeConfig* mImpl;": (
        "public: virtual bool setCudaGraphStrategy(CudaGraphStrategy) noexcept = 0; protected:\n"
    ),
}


def build(folder: Path, tensorrt: Path, library: str) -> Built:
    """Build the program with the headers in `tensorrt`, and the fakes, one as `library`."""
    cuda, tools = cuda_root(), find_toolchain()
    configure = [tools.cmake, "-G", "Ninja", "-S", SAMPLE, "-B", folder / "build"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tools.ninja}", f"-DCMAKE_CXX_COMPILER={tools.cxx}"]
    configure += [f"-DTENSORRT_INCLUDE={tensorrt}", f"-DCUDA_ROOT={cuda}"]
    run(*configure)
    run(tools.cmake, "--build", folder / "build")
    program = folder / "build" / "engine_in_cpp"
    compile_fakes(folder / "fakes", program, tensorrt, library)
    return Built(program, folder / "fakes")


def cuda_root() -> Path:
    """Return the folder of the CUDA toolkit, as its compiler says it."""
    command = [find_toolchain().nvcc, "--dryrun", "-x", "cu", "-c", os.devnull]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    match = re.search(r"^#\$ TOP=(.*)$", told, re.MULTILINE)
    assert match is not None, told
    return Path(match[1].strip()).resolve()


def compile_fakes(folder: Path, program: Path, tensorrt: Path, library: str) -> None:
    folder.mkdir()
    (folder / "ending_methods.h").write_text("\n".join(ending_methods(tensorrt)))
    wanted = re.search(rb"libcudart\.so\.\d+", program.read_bytes())
    assert wanted is not None, "the program needs the CUDA runtime"
    name = wanted[0].decode()
    versions = folder / "versions.map"  # as NVIDIA's library has them
    versions.write_text(f"{name} {{ global: *; }};\n")
    headers = ["-isystem", tensorrt, "-isystem", cuda_root() / "include", "-I", folder]
    shared = [find_toolchain().cxx, "-std=c++17", "-Wall", "-Werror", "-shared", "-fPIC", *headers]
    scripted = [f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}"]
    run(*shared, HERE / "fake_cuda.cpp", *scripted, "-o", folder / name)
    sources = [HERE / "fake_tensorrt.cpp", HERE / "fake_decoder.cpp", folder / name]
    run(*shared, *sources, "-o", folder / library, "-ldl")


def ending_methods(headers: Path) -> Iterator[str]:
    """Yield C++ that gives the interfaces bodies: whoever calls one unexpectedly is stopped."""
    yield "#pragma once"
    yield '#pragma GCC diagnostic ignored "-Wdeprecated-declarations"'
    yield "#include <NvInferRuntime.h>"
    yield "#include <cstdio>"
    yield "#include <cstdlib>"
    yield "namespace ending {"
    yield "using namespace nvinfer1;"
    yield "[[noreturn]] inline void unexpected(char const* name) {"
    yield '    std::fprintf(stderr, "unexpected: %s\\n", name);'
    yield "    std::abort();"
    yield "}"
    for file, names in INTERFACES.items():
        text = re.sub(r"//.*", "", (headers / file).read_text())
        text = re.sub(r"#if ENABLE_FEATURE.*?#endif", "", text, flags=re.DOTALL)
        for name in names:
            body = re.search(rf"class {name}\b[^;]*?{{(.*?)\n}};", text, re.DOTALL)
            assert body is not None, f"{file} has no {name}"
            space = "nvinfer1::apiv::" if name.startswith("V") else "nvinfer1::"
            yield f"struct {name} : {space}{name} {{"
            yield from map(overriding, METHOD.findall(body[1]))
            yield "};"
    yield "}"


def overriding(method: tuple[str, ...]) -> str:
    result, name, parameters, const, noexcept = method
    result = re.sub(r"TRT_\w+|\[\[.*?\]\]", "", result)
    return (
        f'    {result}{name}({parameters}) {const} {noexcept} override {{ unexpected("{name}"); }}'
    )


def run(*command: object) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def engine_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return the function that writes a folder with an engine of the fake TensorRT."""

    def write(*, plugins: bool = False, edition: str = "tensorrt", **numbers: int) -> Path:
        folder = tmp_path / "out"
        folder.mkdir()
        given = {**DEFAULT, "plugins": int(plugins), **numbers}
        lines = ["fake engine", *(f"{name} {number}" for name, number in given.items()), "end", ""]
        engine = folder / "model.engine"
        engine.write_text("\n".join(lines))
        build: dict[str, object] = {
            "engine": "model.engine",
            "edition": edition,
            "version": "10.14.1.48",
            "compute_capabilities": ["8.9"],
            "plugins": _plugins(folder) if plugins else None,
        }
        files = {"model.engine": {"size": engine.stat().st_size, "sha256": ""}}
        manifest = {"castline_format": 1, "build": build, "files": files}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
        return folder

    return write


DEFAULT = {
    "capacity": 0,  # of a fixed cache; 0: it grows
    "sequence": 4,  # new tokens at a time, at most
    "past": 12,
    "profiles": 2,
    "layers": 2,
    "vocabulary": 50,
    "last": 0,  # 1: logits of the last token alone
    "type": FLOAT,
    "int32": 0,
    "broken": 0,
}


def _plugins(folder: Path) -> dict[str, str]:
    library = folder / "plugins" / "libcastline_plugins.so"
    library.parent.mkdir()
    source = library.with_suffix(".c")
    source.write_text("void* getCreators(int* count) { return *count = 0, (void*)0; }\n")
    run("gcc", "-shared", "-fPIC", source, "-o", library)
    sha256 = hashlib.sha256(library.read_bytes()).hexdigest()
    return {"library": "plugins/libcastline_plugins.so", "sha256": sha256}


@pytest.fixture
def generate(built: Built, tmp_path: Path) -> Callable[..., Ran]:
    """Return the function that runs the program with the fakes."""
    return runner(built, tmp_path)


@pytest.fixture
def generate_by_rtx(built_for_rtx: Built, tmp_path: Path) -> Callable[..., Ran]:
    """Return the function that runs the program for TensorRT-RTX, with the fakes."""
    return runner(built_for_rtx, tmp_path)


def runner(built: Built, tmp_path: Path) -> Callable[..., Ran]:
    def start(*arguments: object, stdin: str = "", **environment: str) -> Ran:
        report = tmp_path / "counts"
        report.unlink(missing_ok=True)
        own = {"LD_LIBRARY_PATH": str(built.fakes), "FAKE_CUDA_REPORT": str(report)}
        done = subprocess.run(
            [str(built.program), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **own, **environment},
        )
        lines = report.read_text().splitlines() if report.exists() else []
        counts = {name: int(count) for name, count in (line.split("=") for line in lines)}
        return Ran(done.returncode, done.stdout, done.stderr, counts)

    return start
