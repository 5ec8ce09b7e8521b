from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import castline
from castline.compiler.package.manifest import (
    read_manifest,
    require_unchanged,
    verify,
    write_manifest,
)
from castline.errors import OutputError

FACTS = {"source": "model.gguf", "target": "onnx", "gate": {"kl_divergence": 0.25}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"\x00" * 10)
    (tmp_path / "report.json").write_text('{"seconds": 1.5}')
    write_manifest(tmp_path, FACTS)
    return tmp_path


def test_lists_every_file_but_itself_and_the_report(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest["files"] == {
        "model.onnx": {"sha256": hashlib.sha256(b"graph").hexdigest(), "size": 5},
        "sub/weights": {"sha256": hashlib.sha256(b"\x00" * 10).hexdigest(), "size": 10},
    }
    assert manifest["castline_version"] == castline.__version__
    assert manifest["castline_format"] == 1
    assert manifest["gate"] == {"kl_divergence": 0.25}


def test_the_same_facts_and_files_give_the_same_bytes(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    (folder / "report.json").write_text('{"seconds": 2.5}')
    write_manifest(folder, dict(reversed(FACTS.items())))
    assert (folder / "manifest.json").read_bytes() == before


def test_an_absolute_source_is_written_as_its_name(tmp_path: Path) -> None:
    text = {"source": str(tmp_path / "held-out.txt"), "sha256": "0"}
    write_manifest(tmp_path, {"source": str(tmp_path / "model.gguf"), "evaluation_text": text})
    assert read_manifest(tmp_path)["source"] == "model.gguf"
    expected = {"source": "held-out.txt", "sha256": "0"}
    assert read_manifest(tmp_path)["evaluation_text"] == expected
    assert text["source"] == str(tmp_path / "held-out.txt"), "what was given stays"


def test_figures_that_are_not_finite_stay_json(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"figures": [float("nan"), {"perplexity": float("inf")}]})
    text = (tmp_path / "manifest.json").read_text()
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["figures"] == ["nan", {"perplexity": "inf"}]


def test_facts_may_not_pose_as_the_list_of_files(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="files"):
        write_manifest(tmp_path, {"files": {}})


def test_an_untouched_folder_differs_in_nothing(folder: Path) -> None:
    assert verify(folder) == []
    require_unchanged(folder)


def test_names_every_difference(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"grapf")
    (folder / "sub" / "weights").write_bytes(b"\x00" * 9)
    (folder / "new").touch()
    assert verify(folder) == [
        "new is not in the manifest",
        "model.onnx has other content (SHA-256) than was written",
        "sub/weights has 9 bytes, expected 10",
    ]
    (folder / "model.onnx").unlink()
    with pytest.raises(OutputError, match=r"(?s)model\.onnx is missing.*sub/weights has 9 bytes"):
        require_unchanged(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "expected JSON"),
        ("[]", "was not written by Castline"),
        ('{"name": "a web page"}', "was not written by Castline"),
        ('{"castline_format": 99, "castline_version": "9.0"}', "Install the Castline that wrote"),
    ],
)
def test_says_what_is_wrong_with_a_manifest(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(OutputError, match=words):
        read_manifest(tmp_path)


def test_tells_a_missing_folder_from_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        read_manifest(tmp_path / "none")
    with pytest.raises(OutputError, match="Castline did not write it"):
        read_manifest(tmp_path)


def test_a_manifest_without_files_cannot_be_verified(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"castline_format": 1}')
    with pytest.raises(OutputError, match="files: expected a mapping"):
        verify(tmp_path)


def test_a_link_without_an_end_is_named(folder: Path) -> None:
    (folder / "link").symlink_to("nowhere")
    assert verify(folder) == ["link is not in the manifest"]
