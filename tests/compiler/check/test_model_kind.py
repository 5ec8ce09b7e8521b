"""Names stand for graphs where there is one, for engines with theirs, and else for checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from castline.compiler.check.model_kind import named_model
from castline.errors import OutputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    return tmp_path


def test_a_folder_with_a_graph_and_the_graph_itself_are_graphs(folder: Path) -> None:
    for name in (folder, folder / "model.onnx"):
        found = named_model(name)
        assert (found.kind, found.graph) == ("graph", folder / "model.onnx")
        assert (found.engine, found.folder) == (None, folder)


def test_the_graph_that_genai_config_names_is_taken(folder: Path) -> None:
    (folder / "other.onnx").write_bytes(b"graph")
    config = {"model": {"decoder": {"filename": "other.onnx"}}}
    (folder / "genai_config.json").write_text(json.dumps(config))
    assert named_model(folder).graph == folder / "other.onnx"


def test_an_engine_is_named_by_its_folder_or_its_file(folder: Path) -> None:
    (folder / "model.engine").write_bytes(b"engine")
    for name in (folder, folder / "model.engine"):
        found = named_model(name)
        assert (found.engine, found.graph) == (folder / "model.engine", folder / "model.onnx")


def test_an_engine_without_its_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"engine")
    with pytest.raises(OutputError, match=r"model\.onnx, is not beside it"):
        named_model(tmp_path / "model.engine")


def test_all_else_is_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for name in (tmp_path, tmp_path / "model.gguf", "org/name"):
        assert named_model(name).kind == "checkpoint"


def test_a_graph_that_is_gone_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone\.onnx does not exist"):
        named_model(tmp_path / "gone.onnx")
