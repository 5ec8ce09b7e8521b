"""A folder becomes one file, which is verified without unpacking it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.package.archive import (
    archive_manifest,
    is_archive,
    verify_archive,
    write_archive,
)
from castline.compiler.package.manifest import sha256_of, verify
from castline.errors import OutputError

ENGINE = {"target": "tensorrt-rtx", "build": {"engine": "model.engine"}}


def unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", ["tiny.tar", "tiny.tar.gz", "tiny.tgz"])
def test_it_unpacks_into_an_output_folder(compiled_folder: Any, tmp_path: Path, name: str) -> None:
    folder = compiled_folder("compiled")
    archive = write_archive(folder, tmp_path / name)
    made = unpacked(archive, tmp_path / "box") / "tiny"
    assert verify(made) == []
    assert sorted(p.name for p in made.iterdir()) == [
        "manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json",
    ]  # fmt: skip
    manifest, differences = verify_archive(archive)
    assert differences == ()
    of_manifest = sha256_of(folder / "manifest.json")
    assert manifest["package"] == {"kind": "tar", "of_manifest": of_manifest}
    assert archive_manifest(archive) == manifest


def test_beside_an_engine_no_onnx_model_travels(compiled_folder: Any, tmp_path: Path) -> None:
    archive = write_archive(compiled_folder("compiled", **ENGINE), tmp_path / "tiny.tar")
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    names = ["tiny/manifest.json", "tiny/model.engine", "tiny/tokenizer.json"]
    assert [member.name for member in members] == names, "the manifest comes first"
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_the_same_folder_gives_the_same_bytes(compiled_folder: Any, tmp_path: Path) -> None:
    folder = compiled_folder()
    first = write_archive(folder, tmp_path / "a" / "tiny.tar.gz").read_bytes()
    os.utime(folder / "model.onnx", (1e9, 1e9))
    assert write_archive(folder, tmp_path / "b" / "tiny.tar.gz").read_bytes() == first


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("name", ["tiny.tar", "tiny.tar.gz"])
def test_an_archive_cut_short_is_told(
    compiled_folder: Any, tmp_path: Path, name: str, share: float
) -> None:
    archive = write_archive(compiled_folder(weights=os.urandom(60_000)), tmp_path / name)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    first, *rest = verify_archive(archive)[1]
    assert first.startswith("the archive is cut short or damaged: ")
    assert rest[-1] == "tokenizer.json is missing"


def test_an_archive_cut_in_its_manifest_is_told(compiled_folder: Any, tmp_path: Path) -> None:
    archive = write_archive(compiled_folder(), tmp_path / "tiny.tar")
    archive.write_bytes(archive.read_bytes()[:600])
    with pytest.raises(OutputError, match=r"tiny\.tar: is no archive, or was cut short"):
        verify_archive(archive)


def test_every_difference_is_named(compiled_folder: Any, tmp_path: Path) -> None:
    archive = write_archive(compiled_folder("compiled"), tmp_path / "tiny.tar")
    made = unpacked(archive, tmp_path / "box")
    (made / "tiny" / "model.onnx.data").write_bytes(b"Weights")
    (made / "tiny" / "tokenizer.json").unlink()
    (made / "tiny" / "more").symlink_to("/etc/passwd")
    (made / "tiny" / "new").touch()
    with tarfile.open(archive, "w") as tar:
        for path in sorted((made / "tiny").iterdir(), key=lambda p: p.name != "manifest.json"):
            tar.add(path, f"tiny/{path.name}")
    assert sorted(verify_archive(archive)[1]) == [
        "model.onnx.data has other content (SHA-256) than was written",
        "more is no plain file",
        "new is not in the manifest",
        "tokenizer.json is missing",
    ]


def test_says_what_is_no_archive_of_castline(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        verify_archive(tmp_path / "none.tar")
    (tmp_path / "text.tar").write_text("text")
    with pytest.raises(OutputError, match="is no archive"):
        verify_archive(tmp_path / "text.tar")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "text.tar", "text")
    with pytest.raises(OutputError, match=r"its first file is no manifest\.json"):
        verify_archive(tmp_path / "other.tar")


def test_only_an_archive_of_castline_is_overwritten(compiled_folder: Any, tmp_path: Path) -> None:
    folder, archive = compiled_folder(), tmp_path / "tiny.tar"
    write_archive(folder, archive)
    with pytest.raises(OutputError, match="exists already"):
        write_archive(folder, archive)
    write_archive(folder, archive, overwrite=True)
    (tmp_path / "mine.tar").write_text("mine")
    with pytest.raises(OutputError, match="is no archive"):
        write_archive(folder, tmp_path / "mine.tar", overwrite=True)
    assert (tmp_path / "mine.tar").read_text() == "mine"


def test_a_package_is_not_packed_again(compiled_folder: Any, tmp_path: Path) -> None:
    archive = write_archive(compiled_folder("compiled"), tmp_path / "tiny.tar")
    made = unpacked(archive, tmp_path / "box") / "tiny"
    with pytest.raises(OutputError, match=r"itself a package \(tar\)"):
        write_archive(made, tmp_path / "again.tar")


@pytest.mark.parametrize("name", ["tiny.zip", ".tar", "tiny"])
def test_other_names_are_refused(compiled_folder: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="cannot be an archive"):
        write_archive(compiled_folder(), tmp_path / name)
    assert is_archive(Path(name)) is (name == ".tar")


def test_a_killed_run_leaves_no_archive(compiled_folder: Any, tmp_path: Path) -> None:
    script = (
        "import os, sys, tarfile\n"
        "from pathlib import Path\n"
        "from castline.compiler.package.archive import write_archive\n"
        "add = tarfile.TarFile.addfile\n"
        "def die(self, member, file=None):\n"
        "    add(self, member, file)\n"
        "    if member.name.endswith('model.onnx'):\n        os._exit(9)\n"
        "tarfile.TarFile.addfile = die\n"
        "write_archive(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    folder, archive = compiled_folder(), tmp_path / "box" / "tiny.tar"
    command = [sys.executable, "-c", script, str(folder), str(archive)]
    assert subprocess.run(command, check=False).returncode == 9
    assert not archive.exists()
    assert len(list(archive.parent.iterdir())) == 1, "the hidden half"
    write_archive(folder, archive)
    assert [path.name for path in archive.parent.iterdir()] == ["tiny.tar"]
