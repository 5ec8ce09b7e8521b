from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from castline.errors import CheckpointError
from castline.exporters.readers.safetensors_files import SafetensorsReader

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(4, dtype=np.float16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    save_file({"a": A, "b": B}, file, metadata={"format": "pt"})
    return file


def rewritten(path: Path, change: dict[str, Any], data: bytes | None = None) -> SafetensorsReader:
    """Write the header with some entries changed, and other data, then open the file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]) | change).encode()
    body = content[end:] if data is None else data
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    return SafetensorsReader([path])


def test_knows_shapes_and_dtypes_and_reads_values(path: Path) -> None:
    reader = SafetensorsReader([path])
    assert {name: (spec.shape, spec.dtype) for name, spec in reader.tensors.items()} == {
        "a": ((2, 3), np.float32),
        "b": ((4,), np.float16),
    }
    np.testing.assert_array_equal(reader.read("a"), A)
    np.testing.assert_array_equal(reader.read("b"), B)


@pytest.mark.parametrize(
    ("torch_dtype", "dtype"),
    [
        (torch.float64, np.float64),
        (torch.bfloat16, ml_dtypes.bfloat16),
        (torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
        (torch.float8_e5m2, ml_dtypes.float8_e5m2),
        (torch.int64, np.int64),
        (torch.uint8, np.uint8),
        (torch.bool, np.bool_),
    ],
)
def test_reads_each_dtype(torch_dtype: torch.dtype, dtype: type, tmp_path: Path) -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 0.5])
    save_torch({"x": values.to(torch_dtype)}, tmp_path / "x")
    array = SafetensorsReader([tmp_path / "x"]).read("x")
    assert array.dtype == dtype
    expected = values.to(torch_dtype).to(torch.float64).numpy()
    np.testing.assert_array_equal(array.astype(np.float64), expected)


def test_reads_several_files_as_one(path: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.safetensors"
    save_file({"c": B}, second)
    reader = SafetensorsReader([path, second])
    assert set(reader.tensors) == {"a", "b", "c"}
    assert reader.file_of("c") == second
    assert reader.files == (path, second)
    np.testing.assert_array_equal(reader.read("c"), B)


def test_opening_reads_no_tensor(path: Path) -> None:
    size = path.stat().st_size
    big = {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps({"big": big}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 36))  # a hole: 64 GiB that take no room
    assert SafetensorsReader([path]).tensors["big"].nbytes == 1 << 36
    assert size > end


def test_refuses_a_tensor_that_two_files_hold(path: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.safetensors"
    save_file({"a": A}, second)
    with pytest.raises(CheckpointError, match=r"both hold the tensor a\."):
        SafetensorsReader([path, second])


def test_refuses_a_file_cut_anywhere(path: Path) -> None:
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is (truncated|damaged)"):
            SafetensorsReader([path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff" * 64, "its header should have 18446744073709551615 bytes, and 56 follow"),
        ((200_000_000).to_bytes(8, "little") + b"{}", "its header should have 200000000"),
        ((4).to_bytes(8, "little") + b"{a:1", "its header is not JSON"),
        ((4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc", "its header is not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "its header is not a JSON object"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "its header is not JSON"),
        ((15).to_bytes(8, "little") + b'{"a":{},"a":{}}', "a name occurs twice"),
    ],
)
def test_refuses_a_header_that_is_none(content: bytes, message: str, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        SafetensorsReader([path])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "a does not tell its dtype"),
        ({"dtype": "F32", "shape": [6]}, "a does not tell its dtype"),
        ({"dtype": "F4", "shape": [6], "data_offsets": [0, 24]}, "a has dtype F4"),
        ({"dtype": "F32", "shape": [-6], "data_offsets": [0, 24]}, "not whole numbers"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "not whole numbers"),
        ({"dtype": "F32", "shape": "6", "data_offsets": [0, 24]}, "not whole numbers"),
        ({"dtype": "F32", "shape": [6], "data_offsets": [24]}, "not whole numbers"),
        ({"dtype": "F32", "shape": [7], "data_offsets": [0, 24]}, "a takes 24 bytes, but float32"),
        ({"dtype": "F32", "shape": [6], "data_offsets": [24, 0]}, "a takes -24 bytes"),
    ],
)
def test_refuses_an_entry_that_contradicts_itself(entry: object, message: str, path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        rewritten(path, {"a": entry})


def test_refuses_tensors_that_overlap(path: Path) -> None:
    entry = {"dtype": "F16", "shape": [4], "data_offsets": [20, 28]}
    with pytest.raises(CheckpointError, match=r"b overlaps a; 4 bytes follow the last tensor"):
        rewritten(path, {"b": entry})


def test_refuses_bytes_that_belong_to_no_tensor(path: Path) -> None:
    entry = {"dtype": "F16", "shape": [2], "data_offsets": [28, 32]}
    with pytest.raises(CheckpointError, match="4 bytes between a and b belong to no tensor"):
        rewritten(path, {"b": entry})
    with pytest.raises(CheckpointError, match="5 bytes follow the last tensor, b"):
        rewritten(path, {"b": {**entry, "data_offsets": [24, 28]}}, bytes(33))


def test_refuses_a_tensor_beyond_the_end(path: Path) -> None:
    entry = {"dtype": "F16", "shape": [400], "data_offsets": [24, 824]}
    with pytest.raises(CheckpointError, match="b ends at byte 824 of the data, which has 32"):
        rewritten(path, {"b": entry})


def test_tells_all_damaged_entries_in_one_error(path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a does not tell .*; b does not tell"):
        rewritten(path, {"a": 1, "b": 2})


def test_refuses_a_file_that_shrank_after_opening(path: Path) -> None:
    reader = SafetensorsReader([path])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        reader.read("b")
