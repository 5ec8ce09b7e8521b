"""Build the plugin library for some GPUs, and keep it in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

import castline
from castline.errors import OutputError, PluginError
from castline.plugins.architectures import capability_from, number
from castline.plugins.cache import LIBRARY, built_folder, plugin_cache
from castline.plugins.headers import CUTLASS, fetch, header_version, tensorrt_include
from castline.plugins.library import Library, read_library
from castline.plugins.sources import ROOT, source_hash
from castline.plugins.toolchain import Toolchain, find_toolchain
from castline.progress import Progress

_STEP = re.compile(rb"^\[(\d+)/(\d+)\]")
_LAST_LINES = 20
_DISK_FULL = "No space left on device"


@dataclass(frozen=True)
class _Configuration:
    """What decides how a library comes out, besides its sources."""

    toolchain: Toolchain
    cuda_release: str
    architectures: tuple[str, ...]
    tensorrt: Path
    cutlass: Path | None

    def key(self) -> str:
        parts = (
            ROOT,  # a folder of CMake belongs to one folder of sources
            castline.__version__,
            *(self.toolchain.nvcc, self.cuda_release, self.toolchain.cxx),
            *(self.architectures, self.tensorrt, header_version(self.tensorrt), self.cutlass),
        )
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def build(
    architectures: tuple[str, ...],
    *,
    cutlass: bool = True,
    force: bool = False,
    progress: Progress,
    cache: Path | None = None,
) -> Library:
    """Return the library for nvcc's `architectures` ("89", "90a"), built if the cache lacks it.

    Without `cutlass` products of more than 256 tokens use the tiled kernel. With `force` it is
    compiled again from the beginning. A build that was interrupted goes on where it was.

    Raises:
        PluginError: a tool or header is missing, or compiling failed; the message has the end of
            the log.
        OutputError: the cache cannot be written.
    """
    cache = cache or plugin_cache()
    configuration = _configuration(architectures, cutlass, cache / "headers")
    sources, key = source_hash(), configuration.key()
    kept = built_folder(sources, key, cache) / LIBRARY
    with _exclusive(cache / "build" / key[:16]) as folder:
        if force:
            _forget(kept, folder)
        if not kept.is_file():
            _compile(configuration, sources, folder, progress)
            _keep(folder / LIBRARY, kept)
    return read_library(kept)


def _configuration(architectures: tuple[str, ...], cutlass: bool, headers: Path) -> _Configuration:
    toolchain = find_toolchain()
    release = toolchain.cuda_release()
    unknown = [name for name in architectures if str(number(name)) not in toolchain.architectures()]
    if unknown:
        names = ", ".join(map(capability_from, unknown))
        raise PluginError(
            f"{toolchain.nvcc} (CUDA {release}) makes no code for compute capability {names}: "
            "install a later CUDA toolkit, or leave them out with --architectures"
        )
    return _Configuration(
        toolchain=toolchain,
        cuda_release=release,
        architectures=architectures,
        tensorrt=tensorrt_include(headers),
        cutlass=fetch(CUTLASS, headers) if cutlass else None,
    )


@contextmanager
def _exclusive(folder: Path) -> Iterator[Path]:
    """Give the folder of a build to one process at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("w")
    except OSError as error:
        raise OutputError(f"the cache of plugin libraries cannot be written: {error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Compilers inherit it, so that none of a killed build writes beside those of the next.
        os.set_inheritable(lock.fileno(), True)
        yield folder


def _forget(kept: Path, folder: Path) -> None:
    try:
        kept.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"what was built cannot be removed: {error}") from error


def _compile(configuration: _Configuration, sources: str, folder: Path, progress: Progress) -> None:
    tools = configuration.toolchain
    options = {
        "CMAKE_MAKE_PROGRAM": tools.ninja,
        "CMAKE_CXX_COMPILER": tools.cxx,
        "CMAKE_CUDA_COMPILER": tools.nvcc,
        "CMAKE_CUDA_HOST_COMPILER": tools.cxx,
        "CASTLINE_ARCHITECTURES": ";".join(configuration.architectures),
        "CASTLINE_SOURCE_HASH": sources,
        "CASTLINE_VERSION": castline.__version__,
        "TENSORRT_INCLUDE": configuration.tensorrt,
        "CASTLINE_CUTLASS_INCLUDE": configuration.cutlass or "",
    }
    # The tools' words are read, so they are to be English.
    environment = {**tools.environment(), "NINJA_STATUS": "[%f/%t] ", "LC_ALL": "C"}
    given = [f"-D{name}={value}" for name, value in options.items()]
    log = folder / "build.log"
    log.unlink(missing_ok=True)
    with progress.stage("Preparing the build of the plugin library"):
        configure = [tools.cmake, "-G", "Ninja", "-S", ROOT, "-B", folder, *given]
        _run(configure, environment, log, lambda _done, _all: None)
    with progress.stage("Compiling the plugin library", 1.0) as advance:
        build_all = [tools.ninja, "-C", folder, "castline_plugins"]
        _run(build_all, environment, log, _fractions(advance))


def _fractions(advance: Callable[[float], None]) -> Callable[[int, int], None]:
    reached = 0.0

    def tell(done: int, everything: int) -> None:
        nonlocal reached
        advance(done / everything - reached)
        reached = done / everything

    return tell


def _run(
    command: Sequence[object],
    environment: Mapping[str, str],
    log: Path,
    step: Callable[[int, int], None],
) -> None:
    """Run a tool to its end with its output in `log`, telling of the steps that ninja counts."""
    try:
        with log.open("ab", buffering=0) as output:  # whoever waits may look at it
            code = _logged(command, environment, output, step)
    except OSError as error:
        raise OutputError(
            f"the build cannot go on, since its log {log} cannot be written ({error}): free some "
            "space, and run the command again; it goes on where it was"
        ) from error
    if code != 0:
        _give_up(log)


def _logged(
    command: Sequence[object],
    environment: Mapping[str, str],
    output: RawIOBase,
    step: Callable[[int, int], None],
) -> int:
    """Return the exit code of a tool."""
    words = [str(word) for word in command]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        close_fds=False,  # of ours, the lock alone is inheritable
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                output.write(line)
                if match := _STEP.match(line):
                    step(int(match[1]), int(match[2]))
        except BaseException:  # an interrupt, too: ninja ends its compilers when it is told to end
            process.terminate()
            raise
    return process.returncode


def _give_up(log: Path) -> None:
    lines = log.read_text(errors="replace").splitlines()
    if any(_DISK_FULL in line for line in lines):
        raise OutputError(
            f"the disk of {log.parent} is full: free some space, and run the command again; it "
            "goes on where it was"
        )
    end = "\n".join(f"  {line}" for line in lines[-_LAST_LINES:])
    raise PluginError(f"the plugin library was not built. The log {log} ends with\n{end}")


def _keep(built: Path, kept: Path) -> None:
    """Copy the library into the cache, where it appears whole or not at all."""
    partial = kept.with_name(f"{LIBRARY}.partial")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, partial)
        partial.replace(kept)
    except OSError as error:
        raise OutputError(f"the library cannot be kept in {kept.parent}: {error}") from error
