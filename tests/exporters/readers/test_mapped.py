from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.mapped import Extent, file_size, mapped, opened
from castline.exporters.readers.tensors import TensorSpec


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(np.arange(32, dtype=np.uint8).tobytes())
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, ml_dtypes.bfloat16])
def test_returns_the_bytes_at_the_offset(file: Path, dtype: type) -> None:
    spec = TensorSpec((2, 2), np.dtype(dtype))
    array = mapped(Extent(file, 32, 8), spec)
    assert (array.shape, array.dtype) == (spec.shape, spec.dtype)
    assert array.tobytes() == bytes(range(8, 8 + spec.nbytes))


def test_aligns_what_the_file_does_not(file: Path) -> None:
    array = mapped(Extent(file, 32, 5), TensorSpec((3,), np.dtype(np.float32)))
    assert array.flags.aligned
    assert array.tobytes() == bytes(range(5, 17))


def test_returns_scalars_and_empty_arrays(file: Path) -> None:
    assert mapped(Extent(file, 32, 4), TensorSpec((), np.dtype(np.uint8))) == 4
    assert mapped(Extent(file, 32, 32), TensorSpec((0, 3), np.dtype(np.float32))).shape == (0, 3)


def test_writing_to_the_array_leaves_the_file_as_it_is(file: Path) -> None:
    array = mapped(Extent(file, 32, 0), TensorSpec((32,), np.dtype(np.uint8)))
    array[:] = 255
    assert file.read_bytes() == bytes(range(32))


def test_refuses_a_file_that_changed_its_size(file: Path) -> None:
    file.write_bytes(b"short")
    with pytest.raises(CheckpointError, match="changed while it was being read: it had 32 bytes"):
        mapped(Extent(file, 32, 0), TensorSpec((32,), np.dtype(np.uint8)))


def test_refuses_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone cannot be read: No such file"):
        file_size(tmp_path / "gone")
    with (
        pytest.raises(CheckpointError, match="gone cannot be read: No such file"),
        opened(tmp_path / "gone"),
    ):
        pass
