from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.package.manifest import verify


def test_a_folder_becomes_a_model_of_triton(run: Any, packable: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    options = ("--package", "triton", "-o", models, "--name", "bert", "--version", 3)
    result = run("package", packable, *options, "--max-batch", 8)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{models}/bert/3: onnxruntime backend, at most 8 rows" in result.stdout
    assert "max_batch_size: 8" in (models / "bert" / "config.pbtxt").read_text()
    assert verify(models / "bert" / "3") == []


def test_a_folder_becomes_one_file(run: Any, packable: Path, tmp_path: Path) -> None:
    archive = tmp_path / "box.tar"
    result = run("package", packable, "-p", "tar", "-o", archive, "--json")
    assert json.loads(result.stdout) == {"output": str(archive), "package": "tar"}
    assert run("package", packable, "-p", "tar", "-o", archive).exit_code == 1
    assert run("package", packable, "-p", "tar", "-o", archive, "--overwrite").exit_code == 0


def test_what_a_file_has_not_is_refused(run: Any, packable: Path, tmp_path: Path) -> None:
    options = ("--name", "bert", "--version", 2, "--max-batch", 4)
    result = run("package", packable, "-p", "tar", "-o", tmp_path / "box.tar", *options)
    assert result.exit_code == 2
    assert "--name and --max-batch and --version: a tar file has none" in result.stderr


def test_a_folder_without_a_manifest_is_an_error(run: Any, tmp_path: Path) -> None:
    result = run("package", tmp_path, "-p", "triton", "-o", tmp_path / "models")
    assert result.exit_code == 1
    assert "Castline did not write it" in result.stderr


@pytest.mark.parametrize("arguments", [("-p", "triton", "-o", "rep"), ("-p", "tar", "-o", "a.tar")])
def test_a_package_does_not_go_into_the_folder_it_is_made_of(
    run: Any, packable: Path, arguments: tuple[str, ...]
) -> None:
    *form, place = arguments
    result = run("package", packable, *form, packable / place)
    assert result.exit_code == 1
    assert f"lies in {packable}, whose manifest would not list it" in result.stderr
    assert verify(packable) == []


def test_a_name_that_is_too_long_is_an_error_in_words(
    run: Any, packable: Path, tmp_path: Path
) -> None:
    for arguments in (
        ("triton", "-o", tmp_path / "models", "--name", "n" * 300),
        ("tar", "-o", tmp_path / f"{'n' * 300}.tar"),
    ):
        result = run("package", packable, "-p", *arguments)
        assert result.exit_code == 1
        assert "File name too long. Give a shorter one." in " ".join(result.stderr.split())
