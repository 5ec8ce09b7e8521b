from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from castline.errors import CheckpointError
from castline.exporters.readers.safetensors_files import SafetensorsReader
from castline.exporters.readers.shards import open_weights
from castline.exporters.readers.torch_bin import TorchBinReader

A, B = np.ones(3, np.float32), np.zeros(2, np.float32)
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_file({"a": A}, tmp_path / FIRST)
    save_file({"b": B}, tmp_path / SECOND)
    write_index(tmp_path, {"b": SECOND, "a": FIRST})
    return tmp_path


def write_index(folder: Path, weight_map: object) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")


def test_opens_a_single_file(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "model.safetensors")
    assert set(open_weights(tmp_path).tensors) == {"a"}


def test_opens_all_shards_in_name_order(sharded: Path) -> None:
    weights = open_weights(sharded)
    assert [path.name for path in weights.files] == [FIRST, SECOND]
    np.testing.assert_array_equal(weights.read("b"), B)


def test_opens_bin_files_where_there_is_no_safetensors(tmp_path: Path) -> None:
    name = "pytorch_model-00001-of-00001.bin"
    torch.save({"a": torch.ones(3)}, tmp_path / name)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf-8")
    weights = open_weights(tmp_path)
    assert isinstance(weights, TorchBinReader)
    np.testing.assert_array_equal(weights.read("a"), A)


def test_prefers_safetensors(tmp_path: Path) -> None:
    torch.save({"old": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    save_file({"a": A}, tmp_path / "model.safetensors")
    assert isinstance(open_weights(tmp_path), SafetensorsReader)


def test_says_what_it_looked_for_in_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"holds no weights: .*model\.safetensors\.index\.json"
    ):
        open_weights(tmp_path)


def test_names_all_absent_shards_in_one_error(sharded: Path) -> None:
    (sharded / FIRST).unlink()
    (sharded / SECOND).unlink()
    with pytest.raises(CheckpointError, match=f"names 2 of 2 files .*{FIRST}, {SECOND}"):
        open_weights(sharded)


def test_names_all_tensors_that_are_not_where_the_index_says(sharded: Path) -> None:
    write_index(sharded, {"a": SECOND, "b": SECOND, "c": FIRST})
    with pytest.raises(CheckpointError, match=f"lack a in {SECOND}, c in {FIRST}"):
        open_weights(sharded)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/x.safetensors", ".."])
def test_refuses_an_index_that_leads_out_of_the_folder(name: str, sharded: Path) -> None:
    write_index(sharded, {"a": name})
    with pytest.raises(CheckpointError, match="must name files beside it"):
        open_weights(sharded)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": {}}', "[" * 100_000])
def test_refuses_an_index_that_is_none(content: str, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"index\.json (is not JSON|has no weight_map)"):
        open_weights(sharded)


def test_names_files_that_git_did_not_fetch(sharded: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (sharded / SECOND).write_text(pointer, encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"pointers of Git LFS in place of {SECOND}.*git lfs"):
        open_weights(sharded)
