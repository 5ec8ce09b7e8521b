"""An output is compared with the checkpoint it came from, and with nothing that took its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.check.provenance import local_path, recorded_source, require_recorded
from castline.errors import CheckpointError
from castline.progress import SilentProgress

OUTPUT = Path("out")


def test_only_what_exists_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.chdir(tmp_path)
    assert local_path("model.gguf") == tmp_path / "model.gguf"
    assert local_path("org/name") is None


def test_a_relative_source_is_found_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    manifest = {"source": "model", "source_is_local": True}
    report = {"source": "model", "source_path": str(tmp_path / "model")}
    assert recorded_source(OUTPUT, manifest, report) == str(tmp_path / "model")


def test_a_source_moved_together_with_its_output_is_found_by_its_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    manifest = {"source": "model", "source_is_local": True}
    assert recorded_source(OUTPUT, manifest, {"source_path": "/gone/model"}) == "model"
    assert recorded_source(OUTPUT, manifest, {}) == "model"


def test_a_local_source_that_is_gone_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = {"source": "org/name", "source_is_local": True}
    with pytest.raises(CheckpointError) as raised:
        recorded_source(OUTPUT, manifest, {"source_path": "/gone/org/name"})
    assert str(raised.value) == (
        "out was compiled from /gone/org/name, which does not exist here. Name the original, or "
        "where it is now, with --against MODEL."
    )


def test_a_manifest_without_a_source_says_so() -> None:
    with pytest.raises(CheckpointError, match="does not name"):
        recorded_source(OUTPUT, {}, {})


def test_a_hub_id_stays_one() -> None:
    manifest = {"source": "org/name", "source_is_local": False}
    assert recorded_source(OUTPUT, manifest, {}) == "org/name"


def test_the_same_checkpoint_is_taken_and_another_refused(tiny: Callable[[str], Any]) -> None:
    checkpoint = tiny("llama").checkpoint
    own, other = checkpoint.sha256(), "0" * 64
    progress = SilentProgress()
    assert require_recorded(checkpoint, OUTPUT, {"checkpoint_sha256": own}, progress) == ()
    with pytest.raises(CheckpointError) as raised:
        require_recorded(checkpoint, OUTPUT, {"checkpoint_sha256": other}, progress)
    for part in (own, other, "is not what out was compiled from", "--against"):
        assert part in str(raised.value)


def test_what_could_not_be_verified_is_noted(tiny: Callable[[str], Any]) -> None:
    (note,) = require_recorded(tiny("llama").checkpoint, OUTPUT, {}, SilentProgress())
    assert "no hash of the checkpoint" in note
