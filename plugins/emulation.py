"""Build the kernels for the host, where fibers play the threads of a GPU.

plugins/common/emulator.h says how.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from castline.errors import PluginError

SOURCES = Path(__file__).resolve().parent
_INCLUDED = ("*.h", "*.cuh")
# No contraction: a * b + c is rounded twice, as the instructions of the GPU that kernels name do.
_FLAGS = (
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
)
_LAST_LINES = 20


def build_emulated(
    folder: Path, *, sanitizer: str = "undefined", also: tuple[Path, ...] = ()
) -> Path:
    """Return the library of the kernels for host memory, built into `folder` where it is not there.

    `sanitizer` is one of the compiler's: what it finds ends the process. Sources in `also` become
    part of the library. Only what has changed is compiled anew.

    Raises:
        PluginError: there is no C++ compiler, or it fails.
    """
    flags = (*_FLAGS, f"-fsanitize={sanitizer}", f"-fno-sanitize-recover={sanitizer}")
    compiler = _compiler()
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(_compiled, file, compiler, flags, folder) for file in _sources() + also]
        objects = [job.result() for job in jobs]
    name = "castline_kernels_emulated"
    library = folder / f"lib{name}-{_digest([file.name for file in objects])}.so"
    command = [compiler, *flags, "-shared", *map(str, objects)]
    return library if library.is_file() else _made(library, command)


def _sources() -> tuple[Path, ...]:
    """Every file of code that needs neither a GPU, nor CUTLASS, nor TensorRT."""
    return tuple(sorted((*SOURCES.glob("*/kernel.cu"), *SOURCES.glob("common/*.cpp"))))


def _compiled(source: Path, compiler: str, flags: tuple[str, ...], folder: Path) -> Path:
    included = sorted(file for pattern in _INCLUDED for file in SOURCES.rglob(pattern))
    texts = [file.read_text(encoding="utf-8") for file in (source, *included)]
    digest = _digest([compiler, *flags, *texts])
    built = folder / f"{source.parent.name}-{source.stem}-{digest}.o"
    searched = f"-I{SOURCES / 'common'}"
    command = [compiler, *flags, searched, "-x", "c++", "-c", str(source)]
    return built if built.is_file() else _made(built, command)


def _made(file: Path, command: list[str]) -> Path:
    """Run a compiler; `file` appears when it is whole, also where two processes make it."""
    with tempfile.TemporaryDirectory(dir=file.parent) as beside:
        unfinished = Path(beside) / file.name
        done = subprocess.run(
            [*command, "-o", str(unfinished)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = "\n".join(done.stderr.splitlines()[-_LAST_LINES:])
            raise PluginError(f"the emulated kernels do not compile: {' '.join(command)}\n{said}")
        return unfinished.replace(file)


def _compiler() -> str:
    name = os.environ.get("CXX", "g++")
    found = shutil.which(name)
    if found is None:
        raise PluginError(
            f"the emulated kernels need a C++17 compiler, and there is no {name!r}: install g++, or"
            " set CXX to one"
        )
    return found


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
