from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from castline.errors import CheckpointError
from castline.exporters.readers.torch_bin import TorchBinReader

A = torch.arange(6, dtype=torch.float32).reshape(2, 3)


class Touches:
    """A pickle of it makes a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.path,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


@pytest.mark.parametrize("new_format", [True, False])
def test_knows_shapes_and_dtypes_and_reads_values(new_format: bool, path: Path) -> None:
    state = {"a": A, "b": A.to(torch.bfloat16), "transposed": A.T}
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    reader = TorchBinReader([path])
    assert reader.tensors["transposed"].shape == (3, 2)
    assert reader.tensors["b"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(reader.read("a"), A.numpy())
    np.testing.assert_array_equal(reader.read("b"), A.numpy().astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(reader.read("transposed"), A.numpy().T)
    assert reader.file_of("a") == path


@pytest.mark.parametrize(
    ("torch_dtype", "dtype"),
    [
        (torch.float16, np.float16),
        (torch.float64, np.float64),
        (torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
        (torch.float8_e5m2, ml_dtypes.float8_e5m2),
        (torch.int64, np.int64),
        (torch.bool, np.bool_),
    ],
)
def test_reads_each_dtype(torch_dtype: torch.dtype, dtype: type, path: Path) -> None:
    torch.save({"x": A.to(torch_dtype)}, path)
    reader = TorchBinReader([path])
    array = reader.read("x")
    assert array.dtype == reader.tensors["x"].dtype == dtype
    np.testing.assert_array_equal(array.astype(np.float64), A.to(torch_dtype).double().numpy())


def test_reads_parameters_scalars_and_empty_tensors(path: Path) -> None:
    state = {"p": torch.nn.Parameter(A), "s": torch.tensor(3.0), "e": torch.zeros(0, 4)}
    torch.save(state, path)
    reader = TorchBinReader([path])
    np.testing.assert_array_equal(reader.read("p"), A.numpy())
    assert reader.read("s") == 3.0
    assert reader.read("e").shape == (0, 4)


def test_reads_several_files_as_one(path: Path, tmp_path: Path) -> None:
    torch.save({"a": A}, path)
    torch.save({"b": 2 * A}, tmp_path / "second.bin")
    reader = TorchBinReader([path, tmp_path / "second.bin"])
    np.testing.assert_array_equal(reader.read("b"), 2 * A.numpy())
    torch.save({"a": A}, tmp_path / "second.bin")
    with pytest.raises(CheckpointError, match="both hold the tensor a"):
        TorchBinReader([path, tmp_path / "second.bin"])


@pytest.mark.parametrize("new_format", [True, False])
def test_never_executes_what_a_pickle_asks_for(
    new_format: bool, path: Path, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    torch.save({"a": Touches(touched)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match="never runs what else its pickle may ask for"):
        TorchBinReader([path])
    assert not touched.exists()
    torch.load(path, weights_only=False)
    assert touched.exists(), "the pickle would have done harm"


@pytest.mark.parametrize("new_format", [True, False])
def test_refuses_a_file_cut_anywhere(new_format: bool, path: Path) -> None:
    torch.save({"a": A, "b": A}, path, _use_new_zipfile_serialization=new_format)
    content = path.read_bytes()
    for length in [*range(0, len(content), 29), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read as weights"):
            TorchBinReader([path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([A], "it holds a list, not a table"),
        ({"epoch": 3, "state": {"a": A}}, "epoch is a int, not a tensor; state is a dict"),
        ({3: A}, "3 is a Tensor"),
        ({"a": A.to_sparse()}, r"a is torch\.float32 in torch\.sparse_coo layout"),
        ({"a": A.to(torch.complex64)}, r"a is torch\.complex64"),
    ],
)
def test_refuses_what_is_no_table_of_tensors(content: object, message: str, path: Path) -> None:
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        TorchBinReader([path])


def test_refuses_a_file_that_changed_after_opening(path: Path) -> None:
    torch.save({"a": A}, path)
    reader = TorchBinReader([path])
    torch.save({"a": torch.zeros(100, 100)}, path)
    with pytest.raises(CheckpointError, match="changed since it was opened"):
        reader.read("a")
