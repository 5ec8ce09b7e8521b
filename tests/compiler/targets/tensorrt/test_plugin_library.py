"""The plugin library is found or its lack is told, and it travels with the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from castline.compiler.targets.tensorrt import plugin_library as module
from castline.compiler.targets.tensorrt.plugin_library import (
    layers_in_words,
    library_facts,
    required_library,
    travelling,
)
from castline.errors import TargetError
from castline.plugins.library import Library


@pytest.fixture
def library(tmp_path: Path) -> Library:
    path = tmp_path / "cache" / "libcastline_plugins.so"
    path.parent.mkdir()
    path.write_bytes(b"a library")
    return Library(path, "5ab1e", 1, ("80", "90a"), ("PackedLinearW4A16",), "50", "10.14", "0.1")


def test_a_library_that_is_there_is_taken(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_library", lambda: library)
    assert required_library("zero-points") is library


@pytest.mark.parametrize("native", [True, False])
def test_one_that_is_not_is_told_with_the_ways_out(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    def find() -> Library:
        raise TargetError("there is no plugin library: run castline plugins build")

    monkeypatch.setattr(module, "find_library", find)
    with pytest.raises(TargetError) as raised:
        required_library("zero-points in weights", native=native)
    assert str(raised.value).startswith(
        "The engine computes zero-points in weights by Castline's plugins, and there "
        "is no plugin library: run castline plugins build."
    )
    assert ("--plugins never" in str(raised.value)) == native


def test_a_copy_of_it_travels(library: Library, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    copy = travelling(library, output)
    assert copy.path == output / "plugins" / "libcastline_plugins.so"
    assert copy.path.read_bytes() == b"a library"
    assert library_facts(copy, {"PackedLinearW4A16": 14}) == {
        "library": "plugins/libcastline_plugins.so",
        "sha256": "5ab1e",
        "layout_version": 1,
        "architectures": ["80", "90a"],
        "tensorrt_headers": "10.14",
        "layers": {"PackedLinearW4A16": 14},
    }


def test_an_engine_without_plugins_has_no_library() -> None:
    assert library_facts(None, {}) is None


def test_the_commonest_layers_come_first() -> None:
    assert layers_in_words({"A": 2, "B": 14}) == "14 B, 2 A"
    assert layers_in_words({}) == ""
