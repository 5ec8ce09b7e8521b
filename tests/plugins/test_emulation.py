"""Building the kernels for the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from castline.errors import PluginError
from castline.plugins import emulation
from castline.plugins.emulation import build_emulated


@pytest.fixture
def small_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of one kernel, which is all the code there is."""
    sources = tmp_path / "plugins"
    (sources / "small").mkdir(parents=True)
    (sources / "small" / "kernel.cu").write_text("int small() { return 1; }\n")
    (sources / "small" / "other.h").write_text("\n")
    monkeypatch.setattr(emulation, "SOURCES", sources)
    return sources


def test_the_library_is_built_once(small_sources: Path, tmp_path: Path) -> None:
    built = build_emulated(tmp_path / "cache")
    made = built.stat().st_mtime_ns
    assert build_emulated(tmp_path / "cache") == built
    assert built.stat().st_mtime_ns == made
    (small_sources / "small" / "other.h").write_text("// changed\n")
    assert build_emulated(tmp_path / "cache") != built


def test_what_the_compiler_refuses_is_said(small_sources: Path, tmp_path: Path) -> None:
    (small_sources / "small" / "kernel.cu").write_text("int small() { return nothing; }\n")
    with pytest.raises(PluginError, match=r"do not compile[\s\S]*nothing"):
        build_emulated(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(PluginError, match=r"no 'no-such-compiler': install g\+\+, or set CXX"):
        build_emulated(tmp_path)


@pytest.mark.slow
def test_kernels_stay_within_their_memory(tmp_path: Path) -> None:
    """The sanitizer must be in the process from its start, so the tests run in another one."""
    library = build_emulated(tmp_path / "cache", sanitizer="address")
    sanitizer = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    environment = os.environ | {
        "LD_PRELOAD": sanitizer.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "CASTLINE_EMULATED_LIBRARY": str(library),
    }
    tests = [str(file) for file in sorted(Path(__file__).parent.rglob("test_kernel.py"))]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
