"""A sentence-transformers folder keeps what tells how its vectors become embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from castline.compiler.package.sentence_modules import save_sentence_modules
from castline.errors import CheckpointError, OutputError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"weights")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"someone's export")
    (folder / "config_sentence_transformers.json").write_text("{}")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    (folder / "model.safetensors").write_bytes(b"the encoder")
    listed(folder, "", "1_Pooling", "2_Dense", "3_Normalize")
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def listed(folder: Path, *paths: object) -> None:
    modules = [{"idx": i, "path": path} for i, path in enumerate(paths)]
    (folder / "modules.json").write_text(json.dumps(modules))


def test_copies_the_modules_and_their_settings_alone(source: Path, output: Path) -> None:
    assert save_sentence_modules(source, output) == (
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "config_sentence_transformers.json",
        "modules.json",
        "sentence_bert_config.json",
    )
    for copy in (file for file in output.rglob("*") if file.is_file()):
        assert copy.read_bytes() == (source / copy.relative_to(output)).read_bytes()
    assert len([file for file in output.rglob("*") if file.is_file()]) == 5


def test_another_folder_has_none(source: Path, output: Path) -> None:
    (source / "modules.json").unlink()
    assert save_sentence_modules(source, output) == ()
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("text", ["{", '[{"idx": 0}]', '{"a": 1}', "[3]", "7", '["1_Pooling"]'])
def test_a_list_of_modules_that_is_none_is_refused(source: Path, output: Path, text: str) -> None:
    (source / "modules.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"modules\.json: expected a list of modules"):
        save_sentence_modules(source, output)


@pytest.mark.parametrize("path", ["../secrets", "..", "/etc", "a/b", 3])
def test_a_module_outside_of_the_folder_is_refused(
    source: Path, output: Path, path: object
) -> None:
    listed(source, "", path)
    with pytest.raises(CheckpointError, match=r"a module's path is .*; expected the name of a"):
        save_sentence_modules(source, output)
    assert list(output.iterdir()) == []


def test_an_output_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        save_sentence_modules(source, tmp_path / "file")
