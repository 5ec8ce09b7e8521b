from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from castline.errors import CheckpointError
from castline.exporters import promise
from castline.exporters.promise import PromisedWeight, Scaling
from castline.exporters.readers.converted import ConvertedReader, Made, Part
from castline.exporters.readers.tensors import TensorSpec

NAME = "lm_head.weight"
SHAPE = (131, 64)


@pytest.fixture
def checkpoint(sample: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda array: sample("llama").checkpoint({NAME: array})


def numbers(dtype: Any = np.float32) -> Any:
    return np.random.default_rng(0).normal(size=SHAPE).astype(dtype)


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_casts_and_transposes(stored: Any, checkpoint: Callable[[Any], Any]) -> None:
    array = numbers(stored)
    tensor = PromisedWeight(checkpoint(array), NAME, ir.DataType.FLOAT, (1, 0))
    assert tensor.shape == (64, 131)
    np.testing.assert_array_equal(tensor.numpy(), array.astype(np.float32).T)


@pytest.mark.parametrize("block", [1, 100, 700, 1 << 22])
@pytest.mark.parametrize("axes", [None, (1, 0)])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_writes_in_blocks_what_it_is_as_a_whole(
    block: int,
    axes: Any,
    dtype: ir.DataType,
    checkpoint: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(promise, "_BLOCK", block)
    tensor = PromisedWeight(checkpoint(numbers()), NAME, dtype, axes)
    with (tmp_path / "data").open("wb", buffering=0) as file:
        tensor.tofile(file)
    memory = io.BytesIO()
    tensor.tofile(memory)
    assert (tmp_path / "data").read_bytes() == memory.getvalue() == tensor.tobytes()


@pytest.mark.parametrize("axes", [None, (0, 2, 1), (2, 0, 1)])
def test_writes_a_stack_part_by_part_where_its_first_axis_stays(
    axes: Any, sample: Callable[[str], Any]
) -> None:
    experts = {f"expert.{e}": numbers()[e : e + 4] for e in range(5)}
    checkpoint = sample("llama").checkpoint(experts)
    parts = tuple(Part((name,), lambda arrays: arrays[0][np.newaxis]) for name in experts)
    spec = TensorSpec((5, 4, SHAPE[1]), np.dtype(np.float32))
    stack = replace(checkpoint, reader=ConvertedReader(checkpoint, {"stack": Made(spec, parts)}))
    tensor = PromisedWeight(stack, "stack", ir.DataType.BFLOAT16, axes)
    written: list[tuple[int, int]] = []

    class File(io.BytesIO):
        def write(self, data: Any) -> int:
            written.append((checkpoint.reader.reads.total(), len(data)))
            return super().write(data)

    file = File()
    tensor.tofile(file)
    assert file.getvalue() == tensor.tobytes()
    one = 2 * 4 * SHAPE[1]
    expected = [(5, 5 * one)] if axes == (2, 0, 1) else [(e + 1, one) for e in range(5)]
    assert written == expected


@pytest.mark.parametrize("shape", [(), (0, 4), (5,)])
def test_writes_odd_shapes(
    shape: tuple[int, ...], checkpoint: Callable[[Any], Any], tmp_path: Path
) -> None:
    array = np.full(shape, 0.5, np.float32)
    tensor = PromisedWeight(checkpoint(array), NAME, ir.DataType.FLOAT)
    with (tmp_path / "data").open("wb", buffering=0) as file:
        tensor.tofile(file)
    assert (tmp_path / "data").read_bytes() == array.tobytes()


@pytest.mark.parametrize("extreme", [65536.0, -70000.0])
@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16])
def test_names_the_tensor_that_float16_cannot_hold(
    stored: Any, extreme: float, checkpoint: Callable[[Any], Any]
) -> None:
    array = numbers(stored)
    array[7, 3] = extreme
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: holds .* float16.*bfloat16"):
        PromisedWeight(checkpoint(array), NAME, ir.DataType.FLOAT16).tofile(io.BytesIO())
    assert PromisedWeight(checkpoint(array), NAME, ir.DataType.BFLOAT16).numpy().shape == SHAPE


SCALINGS = (Scaling(np.full((1, 64), 2.0)), Scaling(np.arange(1.0, 132)[:, None], offset=1.0))


def scaled_by_hand(array: Any) -> Any:
    return (array.astype(np.float64) * 2 + 1) * np.arange(1.0, 132)[:, None] - 1


@pytest.mark.parametrize("block", [1, 100, 700, 1 << 22])
@pytest.mark.parametrize("axes", [None, (1, 0)])
@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_scaled_promise_scales_the_stored_tensor_in_order(
    block: int,
    axes: Any,
    stored: Any,
    checkpoint: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(promise, "_BLOCK", block)
    array = numbers(stored)
    tensor = PromisedWeight(checkpoint(array), NAME, ir.DataType.FLOAT, axes)
    for scaling in SCALINGS:
        tensor = tensor.scaled(scaling)
    expected = scaled_by_hand(array).transpose(axes or (0, 1))
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-5, atol=1e-5)
    memory = io.BytesIO()
    tensor.tofile(memory)
    assert memory.getvalue() == tensor.tobytes()


def test_a_stack_is_scaled_part_by_part(sample: Callable[[str], Any]) -> None:
    experts = {f"expert.{e}": numbers()[e : e + 4] for e in range(5)}
    checkpoint = sample("llama").checkpoint(experts)
    parts = tuple(Part((name,), lambda arrays: arrays[0][np.newaxis]) for name in experts)
    spec = TensorSpec((5, 4, SHAPE[1]), np.dtype(np.float32))
    stack = replace(checkpoint, reader=ConvertedReader(checkpoint, {"stack": Made(spec, parts)}))
    factor = np.random.default_rng(1).uniform(0.5, 2, (5, 4, 1))
    plain = PromisedWeight(stack, "stack", ir.DataType.FLOAT, (0, 2, 1))
    tensor = plain.scaled(Scaling(factor))
    np.testing.assert_array_equal(
        tensor.numpy(), plain.numpy() * factor.astype(np.float32).transpose(0, 2, 1)
    )
    memory = io.BytesIO()
    tensor.tofile(memory)
    assert memory.getvalue() == tensor.tobytes()


def test_a_scaled_value_beyond_float16_is_named(checkpoint: Callable[[Any], Any]) -> None:
    tensor = PromisedWeight(checkpoint(numbers()), NAME, ir.DataType.FLOAT16)
    with pytest.raises(CheckpointError, match="beyond float16"):
        tensor.scaled(Scaling(np.full((1, 1), 1e6))).tofile(io.BytesIO())


def test_scaling_leaves_the_first_promise_as_it_was(checkpoint: Callable[[Any], Any]) -> None:
    array = numbers()
    tensor = PromisedWeight(checkpoint(array), NAME, ir.DataType.FLOAT, (1, 0))
    assert tensor.scaled(SCALINGS[0]).axes == tensor.axes == (1, 0)
    np.testing.assert_array_equal(tensor.numpy(), array.T)


def test_gives_its_parts_one_entry_at_a_time(checkpoint: Callable[[Any], Any]) -> None:
    array = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    tensor = PromisedWeight(checkpoint(array), NAME, ir.DataType.FLOAT, (0, 2, 1))
    scaled = tensor.scaled(Scaling(np.array([2.0, 1.0, 0.5]).reshape(3, 1, 1)))
    parts = list(scaled.parts())
    assert [part.shape for part in parts] == [(1, 2, 4)] * 3
    np.testing.assert_array_equal(np.concatenate(parts), scaled.numpy())
