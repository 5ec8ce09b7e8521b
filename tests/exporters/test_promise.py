from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from castline.errors import CheckpointError
from castline.exporters import promise
from castline.exporters.promise import PromisedWeight

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
