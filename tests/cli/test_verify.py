from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.package.archive import write_archive
from castline.compiler.package.manifest import write_manifest

FACTS = {
    "source": "org/tiny",
    "checkpoint_revision": "0123abcd",
    "checkpoint_sha256": "beef" * 16,
    "recipe": {"name": "w4a16-awq"},
    "dtype": "float16",
    "calibration": {"source": "shipped", "sha256": "cafe" * 16},
    "target": "tensorrt-rtx",
    "build": {
        "engine": "model.engine",
        "version": "1.7.1.116",
        "compute_capabilities": ["8.9", "12.0"],
        "plugins": {"library": "plugins/lib.so", "sha256": "f00d" * 16},
    },
    "figures": {"verdicts": [{"name": "kl divergence", "value": 0.0718, "passed": True}]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    (made / "model.engine").write_bytes(b"engine")
    write_manifest(made, FACTS)
    return made


def test_says_what_a_folder_is(run: Any, folder: Path) -> None:
    result = run("verify", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    first, *rest = result.stdout.splitlines()
    assert first == f"{folder}: as it was written; 1 files, 6 B"
    assert [" ".join(line.split()) for line in rest[:-1]] == [
        "of org/tiny, revision 0123abcd, SHA-256 beefbeefbeef",
        "recipe w4a16-awq, float16",
        "calibration shipped, SHA-256 cafecafecafe",
        "target tensorrt-rtx 1.7.1.116, model.engine for compute capability 8.9, 12.0",
        "plugins plugins/lib.so, SHA-256 f00df00df00d",
        "gate passed: kl divergence 0.0718",
    ]


@pytest.mark.parametrize(
    ("target", "build", "words"),
    [
        ("tensorrt-rtx", {}, "8.0, 8.6, 8.9, 12.0 and later (TensorRT-RTX's default)"),
        ("tensorrt", {"hardware_compatibility": "ampere+"}, "8.0 and later"),
        ("tensorrt", {}, "not written down (the GPU that it was built on)"),
    ],
)
def test_an_engine_for_no_gpu_in_particular_says_what_that_means(
    run: Any, tmp_path: Path, target: str, build: dict[str, str], words: str
) -> None:
    engine = {"engine": "model.engine", "version": "1.7.1", "compute_capabilities": "default"}
    write_manifest(tmp_path, {"target": target, "build": engine | build})
    told = run("verify", tmp_path).stdout
    assert f"{target} 1.7.1, model.engine for compute capability {words}\n" in told


def test_names_what_differs_and_ends_with_1(run: Any, folder: Path) -> None:
    (folder / "model.engine").write_bytes(b"Engine")
    (folder / "new").touch()
    result = run("verify", folder)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{folder}: differs from its manifest")
    assert "model.engine has other content (SHA-256) than was written" in result.stderr
    assert "new is not in the manifest" in result.stderr


def test_json_has_the_facts_and_the_differences(run: Any, folder: Path) -> None:
    (folder / "model.engine").unlink()
    result = run("verify", folder, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["differences"] == ["model.engine is missing"]
    assert document["whole"] is False
    assert document["manifest"]["checkpoint_revision"] == "0123abcd"
    assert "files" not in document["manifest"]


def test_a_package_needs_no_unpacking(run: Any, folder: Path, tmp_path: Path) -> None:
    archive = write_archive(folder, tmp_path / "box.tar.gz")
    result = run("verify", archive)
    assert result.exit_code == 0
    assert "package      tar" in result.stdout
    archive.write_bytes(archive.read_bytes()[:-40])
    assert run("verify", archive).exit_code == 1


def test_an_export_has_few_facts(run: Any, tmp_path: Path) -> None:
    write_manifest(tmp_path, {"source": "org/tiny", "target": "export"})
    result = run("verify", tmp_path)
    assert (result.exit_code, "target       export" in result.stdout) == (0, True)


def test_what_castline_did_not_write_is_an_error(run: Any, tmp_path: Path) -> None:
    result = run("verify", tmp_path)
    assert result.exit_code == 1
    assert "Castline did not write it" in result.stderr
