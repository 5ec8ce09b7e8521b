from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from castline.cli import plugins
from castline.cli.machine import Gpu
from castline.errors import PluginError
from castline.plugins import building, library
from castline.plugins.library import Library

LIBRARY = Library(
    path=Path("/cache/libcastline_plugins.so"),
    sha256="ab" * 32,
    layout_version=1,
    architectures=("89", "90a"),
    ops=("PackedLinearW4A16", "QuantizePerToken"),
    source_hash="cd" * 32,
    tensorrt_headers="10.14.1",
    castline="0.1.0",
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a build was asked for; the machine has no GPU."""
    given: dict[str, Any] = {}

    def build(architectures: tuple[str, ...], **options: Any) -> Library:
        given.update(options, architectures=architectures)
        return LIBRARY

    monkeypatch.setattr(building, "build", build)
    monkeypatch.setattr(plugins, "gpus", tuple)
    return given


def test_builds_for_the_architectures_that_are_asked_for(run: Any, asked: dict[str, Any]) -> None:
    result = run("plugins", "build", "--architectures", "8.9,9.0", "--force", "--no-cutlass")
    assert result.exit_code == 0, result.stderr
    assert asked["architectures"] == ("89", "90a")
    assert (asked["force"], asked["cutlass"]) == (True, False)
    assert "GPUs 8.9, 9.0 and later" in " ".join(result.stdout.split())


def test_builds_for_the_gpus_that_are_here_or_else_for_all(
    run: Any, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("plugins", "build")
    assert asked["architectures"] == ("80", "86", "89", "90a", "100", "120")
    monkeypatch.setattr(plugins, "gpus", lambda: (Gpu("RTX 4090", "8.9", "24 GB", "580"),))
    run("plugins", "build")
    assert asked["architectures"] == ("89",)


def test_a_wrong_architecture_is_an_error_in_words(run: Any, asked: dict[str, Any]) -> None:
    result = run("plugins", "build", "--architectures", "turing")
    assert result.exit_code == 1
    assert "error: 'turing' is no compute capability" in result.stderr
    assert asked == {}


def test_shows_the_library_that_is_there(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_library", lambda: LIBRARY)
    text = " ".join(run("plugins", "show").stdout.split())
    for fact in (str(LIBRARY.path), LIBRARY.sha256, "PackedLinearW4A16, QuantizePerToken"):
        assert fact in text
    document = json.loads(run("plugins", "show", "--json").stdout)
    assert document["architectures"] == ["89", "90a"]
    assert document["path"] == str(LIBRARY.path)


def test_says_how_to_build_where_there_is_none(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Library:
        raise PluginError("there is no plugin library: run castline plugins build")

    monkeypatch.setattr(library, "find_library", none)
    result = run("plugins", "show")
    assert result.exit_code == 1
    assert "run castline plugins build" in result.stderr
