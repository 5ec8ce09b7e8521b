"""Tensors are written one unit at a time into files that safetensors itself reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from castline.compiler.huggingface.weight_files import Unit, write_weights
from castline.exporters.readers.shards import open_weights
from castline.exporters.readers.tensors import TensorSpec


def unit(**arrays: np.ndarray) -> Unit:
    specs = {name: TensorSpec(array.shape, array.dtype) for name, array in arrays.items()}
    return Unit(specs, lambda: arrays)


def test_every_type_and_shape_reads_back(tmp_path: Path) -> None:
    arrays = {
        "odd": np.arange(3, dtype=np.float16),
        "int8": np.array([-128, 127, 0], np.int8),
        "int64": np.array([7, -9], np.int64),
        "float32": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
        "int32": np.array([[1 << 30, -1]], np.int32),
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.float32(2.5).reshape(()),
    }
    size = write_weights([unit(**{name: array}) for name, array in arrays.items()], tmp_path)
    assert size == sum(array.nbytes for array in arrays.values())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("int64").tolist() == [7, -9]


def test_a_transposed_array_and_bfloat16_are_written_row_by_row(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16).T
    write_weights([unit(one=array)], tmp_path)
    np.testing.assert_array_equal(open_weights(tmp_path).read("one"), array)


def test_tensors_begin_at_multiples_of_their_size(tmp_path: Path) -> None:
    write_weights([unit(a=np.ones(1, np.int8), b=np.ones(1, np.int64))], tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert (header["b"]["data_offsets"], header["a"]["data_offsets"]) == ([0, 8], [8, 9])


def test_what_is_larger_than_a_file_may_be_is_divided_between_units(tmp_path: Path) -> None:
    units = [
        unit(a=np.zeros(4, np.float32), b=np.ones(4, np.float32)),
        unit(c=np.full(20, 2, np.float32)),
        unit(d=np.full(2, 3, np.float32)),
        unit(e=np.full(2, 4, np.float32)),
    ]
    write_weights(units, tmp_path, shard_bytes=40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second, third = (f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
    assert index == {
        "metadata": {"total_size": 144 - 16},
        "weight_map": {"a": first, "b": first, "c": second, "d": third, "e": third},
    }
    reader = open_weights(tmp_path)
    assert {name: float(reader.read(name)[-1]) for name in reader.tensors} == {
        "a": 0, "b": 1, "c": 2, "d": 3, "e": 4,
    }  # fmt: skip


def test_one_unit_is_computed_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def noted(name: str) -> Unit:
        def compute() -> Mapping[str, np.ndarray]:
            order.append(name)
            return {name: np.ones(1, np.float32)}

        return Unit({name: TensorSpec((1,), np.dtype(np.float32))}, compute)

    units = [noted("x"), noted("y")]
    assert order == []
    write_weights(units, tmp_path)
    assert order == ["x", "y"]


def test_a_unit_that_breaks_its_promise_is_caught(tmp_path: Path) -> None:
    wrong = Unit({"a": TensorSpec((2,), np.dtype(np.float32))}, lambda: {"a": np.ones(2)})
    with pytest.raises(AssertionError, match="a is float64"):
        write_weights([wrong], tmp_path)
