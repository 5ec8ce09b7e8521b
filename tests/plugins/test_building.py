"""A build is tried with tools that make a stand-in of the library, and note their calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from castline.errors import OutputError, PluginError
from castline.plugins import building
from castline.plugins.building import build
from castline.plugins.cache import LIBRARY
from castline.plugins.library import Library
from castline.plugins.sources import source_hash
from castline.plugins.toolchain import Toolchain
from castline.progress import SilentProgress

NVCC = """
case $1 in --version) echo 'release 13.0,';; *) echo compute_80; echo compute_90;; esac
"""
# ninja is called as `ninja -C FOLDER castline_plugins`.
NINJA = """
echo '[1/2] one'; echo '[2/2] two'; cp {library} $2/libcastline_plugins.so; echo ninja >> {notes}
"""
VERSION = "#define NV_TENSORRT_MAJOR 10\n#define NV_TENSORRT_MINOR 3\n#define NV_TENSORRT_PATCH 0\n"


class Notes(SilentProgress):
    """How far each stage came."""

    def __init__(self) -> None:
        self.reached: dict[str, float] = {}

    @contextmanager
    def stage(
        self, title: str, total: float | None = None, unit: str = ""
    ) -> Iterator[Callable[[float], None]]:
        del total, unit
        self.reached[title] = 0.0

        def advance(amount: float) -> None:
            self.reached[title] += amount

        yield advance


class Bench:
    """Tools in a folder, and the folders of a build."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.notes = folder / "notes"
        self.progress = Notes()
        self.tool("nvcc", NVCC)
        self.tool("c++", "")
        self.tool("cmake", f"echo cmake $@ >> {self.notes}")
        self.tool("ninja", NINJA.format(library=library, notes=self.notes))
        include = folder / "tensorrt" / "include"
        include.mkdir(parents=True)
        (include / "NvInferVersion.h").write_text(VERSION)

    def tool(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def toolchain(self) -> Toolchain:
        return Toolchain(*(self.folder / name for name in ("nvcc", "c++", "cmake", "ninja")))

    def build(self, *architectures: str, force: bool = False) -> Library:
        return build(
            architectures, cutlass=False, force=force, progress=self.progress, cache=self.cache
        )

    def calls(self) -> list[str]:
        return [line.split()[0] for line in self.notes.read_text().splitlines()]


@pytest.fixture
def bench(
    tmp_path: Path, stand_in_library: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    made = Bench(tmp_path, stand_in_library(tmp_path / LIBRARY, sources=source_hash()))
    monkeypatch.setattr(building, "find_toolchain", made.toolchain)
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "tensorrt"))
    return made


def test_builds_into_the_cache_and_tells_how_far_it_is(bench: Bench) -> None:
    library = bench.build("80", "90a")
    assert library.path.parent.parent == bench.cache
    assert library.path.read_bytes() == (bench.folder / LIBRARY).read_bytes()
    assert bench.progress.reached["Compiling the plugin library"] == pytest.approx(1)
    options = bench.notes.read_text()
    for option in ("CASTLINE_ARCHITECTURES=80;90a", f"CASTLINE_SOURCE_HASH={source_hash()}"):
        assert option in options


def test_what_is_built_is_not_built_again_unless_forced(bench: Bench) -> None:
    first = bench.build("80")
    assert bench.build("80") == first
    assert bench.calls() == ["cmake", "ninja"]
    assert bench.build("80", force=True) == first
    assert bench.calls() == ["cmake", "ninja"] * 2


def test_other_architectures_are_another_library(bench: Bench) -> None:
    assert bench.build("80").path != bench.build("90a").path


def test_an_interrupted_build_goes_on_in_its_folder(bench: Bench) -> None:
    ninja = (bench.folder / "ninja").read_text()
    bench.tool("ninja", "touch $2/object.o; exit 1")
    with pytest.raises(PluginError):
        bench.build("80")
    bench.tool("ninja", f"test -f $2/object.o || exit 1\n{ninja}")
    assert bench.build("80").path.is_file()


def test_a_failure_shows_the_log_and_its_end_and_leaves_no_library(bench: Bench) -> None:
    bench.tool("ninja", "echo '[1/2] one'; echo 'kernel.cu(7): error: no such type'; exit 1")
    with pytest.raises(PluginError, match=r"build\.log ends with\n(.*\n)*  kernel\.cu\(7\): error"):
        bench.build("80")
    assert list(bench.cache.rglob(LIBRARY)) == []


def test_a_full_disk_is_called_so(bench: Bench) -> None:
    bench.tool("ninja", "echo 'fatal error: a.o: No space left on device'; exit 1")
    with pytest.raises(OutputError, match=r"is full.*goes on where it was"):
        bench.build("80")


def test_a_log_that_does_not_fit_the_disk_ends_the_build_in_words(bench: Bench) -> None:
    bench.tool("cmake", 'rm "$6/build.log"; ln -s /dev/full "$6/build.log"')
    bench.tool("ninja", "echo a line")
    with pytest.raises(OutputError, match=r"build\.log cannot be written .* goes on where it was"):
        bench.build("80")


def test_a_compiler_that_does_not_know_an_architecture_is_refused(bench: Bench) -> None:
    with pytest.raises(
        PluginError, match=r"CUDA 13\.0\) makes no code for compute capability 12\.0"
    ):
        bench.build("80", "120")


def test_a_cache_that_cannot_be_written_is_named(bench: Bench) -> None:
    bench.cache.write_text("in the way")
    with pytest.raises(OutputError, match="cache of plugin libraries cannot be written"):
        bench.build("80")
