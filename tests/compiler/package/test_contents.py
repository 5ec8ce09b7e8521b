"""A package carries what running takes, and says where it came from."""

from __future__ import annotations

from typing import Any

import pytest

from castline.compiler.package.contents import (
    engine_of,
    package_facts,
    packed_manifest,
    run_time_files,
)
from castline.compiler.package.manifest import sha256_of
from castline.errors import OutputError


def test_the_plan_and_the_reports_stay_behind(compiled_folder: Any) -> None:
    folder = compiled_folder()
    manifest = packed_manifest(folder)
    assert list(run_time_files(folder, manifest)) == [
        "model.onnx", "model.onnx.data", "tokenizer.json",
    ]  # fmt: skip
    assert engine_of(manifest) is None


def test_beside_an_engine_the_onnx_model_stays_behind(compiled_folder: Any) -> None:
    folder = compiled_folder(build={"engine": "model.engine"})
    manifest = packed_manifest(folder)
    assert list(run_time_files(folder, manifest)) == ["model.engine", "tokenizer.json"]
    assert engine_of(manifest) == "model.engine"


def test_the_facts_are_those_of_the_folder_and_what_the_package_is(compiled_folder: Any) -> None:
    folder = compiled_folder(recipe={"name": "float"})
    facts = package_facts(folder, packed_manifest(folder), "triton", version=2)
    assert facts == {
        "source": "org/tiny",
        "target": "onnxruntime",
        "build": {},
        "recipe": {"name": "float"},
        "package": {
            "kind": "triton",
            "of_manifest": sha256_of(folder / "manifest.json"),
            "version": 2,
        },
    }


def test_neither_packages_nor_edited_folders_are_packed(compiled_folder: Any) -> None:
    with pytest.raises(OutputError, match=r"itself a package \(tar\)"):
        packed_manifest(compiled_folder("tar", package={"kind": "tar"}))
    folder = compiled_folder()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(OutputError, match=r"tokenizer\.json is missing"):
        packed_manifest(folder)
