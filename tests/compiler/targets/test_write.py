"""Promised weights are read in order, one at a time, and written where a runtime can map them."""

from __future__ import annotations

import errno
import gc
import resource
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from castline.compiler.targets import write as module
from castline.compiler.targets.write import write_model
from castline.errors import CheckpointError, OutputError

SIZES = {"first": 2000, "small": 8, "second": 5000, "third": 1500}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def promised(read: Callable[[str, int], np.ndarray]) -> ir.Model:
    """Return a model of promises: first, small, second, third, each added to the input."""
    values = []
    for name, size in SIZES.items():
        shape = ir.Shape([size])

        def tensor(name: str = name, size: int = size) -> ir.TensorProtocol:
            return ir.Tensor(read(name, size), name=name)

        lazy = ir.LazyTensor(tensor, dtype=ir.DataType.FLOAT, shape=shape, name=name)
        float_type = ir.TensorType(ir.DataType.FLOAT)
        values.append(ir.Value(name=name, shape=shape, type=float_type, const_value=lazy))
    node = ir.node("Concat", values, {"axis": 0})
    node.outputs[0].name = "y"
    node.outputs[0].shape = ir.Shape([sum(SIZES.values())])
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [], node.outputs, nodes=[node], initializers=values, opset_imports={"": 23}, name="graph"
    )
    return ir.Model(graph, ir_version=10)


def ones(_name: str, size: int) -> np.ndarray:
    return np.full(size, size, np.float32)


def test_large_tensors_lie_on_pages_of_their_own_and_small_ones_in_the_model(
    tmp_path: Path,
) -> None:
    path = write_model(promised(ones), tmp_path)
    saved = onnx.load(path, load_external_data=False).graph.initializer
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in saved
    }
    assert places["small"] == {}
    offsets = [int(places[name]["offset"]) for name in ("first", "second", "third")]
    assert offsets == [0, 2 * 4096, 7 * 4096]
    assert {place["location"] for place in places.values() if place} == {"model.onnx.data"}
    onnx.checker.check_model(path, full_check=True)
    loaded = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name, size in SIZES.items():
        np.testing.assert_array_equal(loaded[name], ones(name, size))


def test_each_is_read_once_and_let_go_before_the_next(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    order = []

    def read(name: str, size: int) -> np.ndarray:
        gc.collect()
        assert not [array for array in alive if array() is not None], "the last is still held"
        order.append(name)
        array = ones(name, size)
        if name != "small":
            alive.append(weakref.ref(array))
        return array

    write_model(promised(read), tmp_path)
    assert order == ["first", "second", "third", "small"]


def test_tells_of_every_byte(tmp_path: Path) -> None:
    class Watched:
        total, done = 0.0, 0.0

        @contextmanager
        def stage(
            self, title: str, total: float | None = None, unit: str = ""
        ) -> Iterator[Callable[[float], None]]:
            assert (title, unit) == ("Writing weights", "B")
            self.total = total or 0

            def advance(amount: float) -> None:
                self.done += amount

            yield advance

    watched = Watched()
    write_model(promised(ones), tmp_path, watched)
    assert watched.done == watched.total == (tmp_path / "model.onnx.data").stat().st_size


@pytest.mark.parametrize("name", ["second", "small"])
def test_what_the_checkpoint_raises_comes_through_as_it_is(tmp_path: Path, name: str) -> None:
    def read(asked: str, size: int) -> np.ndarray:
        if asked == name:
            raise CheckpointError(f"{name} holds NaN")
        return ones(asked, size)

    with pytest.raises(CheckpointError, match=f"{name} holds NaN"):
        write_model(promised(read), tmp_path)


def test_a_disk_that_is_too_small_is_refused_before_a_byte_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage(10**9, 10**9, 1000))
    with pytest.raises(OutputError, match=r"the weights need 0\.0 MB, and 0 MB are free"):
        write_model(promised(lambda name, _size: pytest.fail(f"{name} was read")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "append_tensor", full)
    with pytest.raises(OutputError, match=r"the disk is full\. Make room or choose"):
        write_model(promised(ones), tmp_path)


def test_a_file_that_may_not_grow_is_said_to_be_refused(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OutputError, match=r"weights need 0\.0 MB, and no larger file is allow"):
            write_model(promised(ones), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_model(promised(ones), tmp_path / "missing")
