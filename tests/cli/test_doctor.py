from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from castline.cli import doctor
from castline.cli.machine import Library
from castline.plugins import toolchain


def test_says_what_is_absent_and_how_to_install_it(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lacking = Library(("no-such-distribution",), "the target moon", "pip install moon")
    monkeypatch.setattr(doctor, "LIBRARIES", (lacking, Library(("numpy",), "all", "")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    result = run("doctor")
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "no-such-distribution absent without it: the target moon; pip install moon" in text
    assert "HF_HUB_OFFLINE=1" in text
    assert f"hub cache: {tmp_path}/hub (not there yet)" in text
    assert "none seen: engines are built here, but cannot be run" in text
    assert "CPUExecutionProvider" in text


def test_says_what_building_the_plugins_needs(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CASTLINE_PLUGINS", str(tmp_path / "absent.so"))
    monkeypatch.setattr(toolchain, "missing_tools", lambda: ("ninja: pip install ninja",))
    text = " ".join(run("doctor").stdout.split())
    assert f"CASTLINE_PLUGINS names {tmp_path}/absent.so, which is no file" in text
    assert "to build it: ninja: pip install ninja" in text


def test_json_is_one_document(run: Any) -> None:
    document = json.loads(run("doctor", "--json").stdout)
    assert {"name", "version", "without_it", "install"} == document["libraries"][0].keys()
    assert document["folders"]
