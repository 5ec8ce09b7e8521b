"""Whatever has a manifest is held to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from castline.compiler.package.archive import write_archive
from castline.compiler.package.manifest import write_manifest
from castline.compiler.package.triton_repository import write_repository
from castline.compiler.package.verification import verified
from castline.errors import OutputError


def test_a_folder_is_whole_or_its_differences_are_named(compiled_folder: Any) -> None:
    folder = compiled_folder()
    (found,) = verified(folder)
    assert (found.path, found.differences, found.files) == (folder, (), 4)
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    left_out = sum((folder / n).stat().st_size for n in ("manifest.json", "report.json"))
    assert found.bytes == sum(sizes) - left_out
    (folder / "new").touch()
    (found,) = verified(folder)
    assert found.to_json()["whole"] is False
    assert found.to_json()["differences"] == ["new is not in the manifest"]


def test_an_archive_is_read_as_it_is(compiled_folder: Any, tmp_path: Path) -> None:
    archive = write_archive(compiled_folder("compiled"), tmp_path / "tiny.tar")
    (found,) = verified(archive)
    assert (found.differences, found.files) == ((), 3)
    with pytest.raises(OutputError, match="does not exist"):
        verified(tmp_path / "none.tar")


def test_of_a_repository_every_version_is_verified(compiled_folder: Any, tmp_path: Path) -> None:
    models, folder = tmp_path / "models", compiled_folder()
    for version in (1, 2):
        write_repository(folder, models, version=version)
    write_repository(folder, models, name="other")
    (models / "tiny" / "2" / "model.onnx").unlink()
    (models / "other" / "warmup" / "decode_attention_mask").unlink()
    found = {one.path.relative_to(models).as_posix(): one.differences for one in verified(models)}
    assert found == {
        "other/1": ("../warmup/decode_attention_mask is missing",),
        "tiny/1": (),
        "tiny/2": ("model.onnx is missing",),
    }
    assert len(verified(models / "tiny")) == 2


def test_what_has_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Castline did not write it"):
        verified(tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        verified(tmp_path / "none")


def test_a_broken_list_of_shared_files_is_told(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"package": {"shared": ["config.pbtxt"]}})
    with pytest.raises(OutputError, match=r"package\.shared: expected a mapping"):
        verified(tmp_path)
