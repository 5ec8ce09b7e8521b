"""The library that travelled with an engine is loaded if it is the one of the manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.package import engine_plugins as module
from castline.compiler.package.engine_plugins import load_engine_plugins
from castline.compiler.package.manifest import write_manifest
from castline.errors import OutputError

CONTENT = b"a library"
TENSORRT: Any = object()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, object]]:
    """Return what is registered, in place of a TensorRT."""
    calls: list[tuple[Path, object]] = []
    monkeypatch.setattr(module, "register", lambda *call: calls.append(call))
    return calls


def folder_with(tmp_path: Path, plugins: object) -> Path:
    library = tmp_path / "plugins" / "libcastline_plugins.so"
    library.parent.mkdir()
    library.write_bytes(CONTENT)
    write_manifest(tmp_path, {"build": {"engine": "model.engine", "plugins": plugins}})
    return tmp_path


def facts(content: bytes = CONTENT) -> dict[str, str]:
    digest = hashlib.sha256(content).hexdigest()
    return {"library": "plugins/libcastline_plugins.so", "sha256": digest}


def test_the_library_of_the_manifest_is_registered(
    tmp_path: Path, registered: list[tuple[Path, object]]
) -> None:
    folder = folder_with(tmp_path, facts())
    library = folder / "plugins" / "libcastline_plugins.so"
    assert load_engine_plugins(folder, TENSORRT) == library
    assert registered == [(library, TENSORRT)]


def test_an_engine_without_plugins_needs_none(
    tmp_path: Path, registered: list[tuple[Path, object]]
) -> None:
    assert load_engine_plugins(folder_with(tmp_path, None), TENSORRT) is None
    assert registered == []


def test_another_library_is_not_loaded(
    tmp_path: Path, registered: list[tuple[Path, object]]
) -> None:
    folder = folder_with(tmp_path, facts(b"another library"))
    with pytest.raises(OutputError, match="is not loaded; copy the folder again"):
        load_engine_plugins(folder, TENSORRT)
    assert registered == []


def test_a_library_that_was_left_behind_is_missed(
    tmp_path: Path, registered: list[tuple[Path, object]]
) -> None:
    folder = folder_with(tmp_path, facts())
    (folder / "plugins" / "libcastline_plugins.so").unlink()
    with pytest.raises(OutputError, match="copy the whole folder"):
        load_engine_plugins(folder, TENSORRT)
    assert registered == []


def test_a_manifest_that_says_nothing_of_its_hash_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"library": "plugins/libcastline_plugins.so"})
    with pytest.raises(OutputError, match=r"build\.plugins: expected the library and its sha256"):
        load_engine_plugins(folder, TENSORRT)
