from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from castline.compiler.targets.tensorrt.cuda import Cuda
from castline.compiler.targets.tensorrt.engine import Engine, Tensor
from castline.compiler.targets.tensorrt.engine_buffers import EngineCache, Fed, LogitsBuffer
from castline.compiler.targets.tensorrt.engine_layout import EngineLayout, engine_layout


@pytest.fixture
def cuda(fake_gpu: ModuleType) -> Cuda:
    return Cuda(fake_gpu.FakeDriver())


@pytest.fixture
def layout(engine_file: Callable[..., Path], fake_gpu: ModuleType) -> Callable[[str], EngineLayout]:
    trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver())
    return lambda form: engine_layout(Engine(engine_file(form), trt))


class Bound:
    """A context that notes addresses."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}

    def address(self, name: str, address: int) -> None:
        self.addresses[name] = address


def bound(cache: EngineCache) -> dict[str, int]:
    context: Any = Bound()
    cache.bind(context)
    return context.addresses  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_inputs_reach_the_gpu_in_the_engine_s_type(cuda: Cuda, dtype: type) -> None:
    fed = Fed(Tensor("input_ids", True, np.dtype(dtype), (-1, -1)), (2, 4), cuda)
    stream, back = cuda.stream(), cuda.pinned((3,), dtype, "ids")
    fed.fill(np.array([[5, 6, 7]]))
    fed.send(stream)
    stream.copy_out(back, fed.address, back.array.nbytes)
    stream.wait()
    assert back.array.tolist() == [5, 6, 7]


def test_a_growing_cache_is_read_and_written_in_turn(cuda: Cuda, layout: Any) -> None:
    cache = EngineCache(layout("growing"), 1, cuda)
    first = bound(cache)
    cache.advance()
    second = bound(cache)
    for past in (name for name in first if name.startswith("past")):
        present = past.replace("past_key_values", "present")
        assert (first[past], first[present]) == (second[present], second[past])
    assert len(set(first.values())) == 8


def test_a_fixed_cache_is_one_set_that_stays(cuda: Cuda, layout: Any) -> None:
    cache = EngineCache(layout("fixed"), 1, cuda)
    first = bound(cache)
    cache.advance()
    assert bound(cache) == first
    assert len(set(first.values())) == 4
    assert first["past_key_values.1.key"] == first["present.1.key"]


def test_every_cache_has_its_own_aligned_place(cuda: Cuda, layout: Any) -> None:
    for form in ("growing", "fixed"):
        cache = EngineCache(layout(form), 2, cuda)
        places = sorted(set(bound(cache).values()))
        size = 2 * 2 * 48 * 32 * 4  # batch, heads, tokens, head size, bytes of a float
        assert all(place % 256 == 0 for place in places)
        ends = [*places[1:], cache.memory.address + cache.memory.size]
        assert all(end - place >= size for place, end in zip(places, ends, strict=True))


def test_a_cleared_cache_holds_zeros(cuda: Cuda, layout: Any) -> None:
    cache, stream = EngineCache(layout("fixed"), 1, cuda), cuda.stream()
    back = cuda.pinned((cache.memory.size,), np.uint8, "cache")
    for expected in (True, False):
        stream.copy_out(back, cache.memory.address, cache.memory.size)
        cache.clear(stream)
        stream.wait()
        assert back.array.any() == expected


@pytest.mark.parametrize(("form", "rows"), [("growing", 3), ("last", 1)])
def test_the_last_row_of_each_sequence_is_fetched(
    cuda: Cuda, layout: Any, form: str, rows: int
) -> None:
    buffer, stream = LogitsBuffer(layout(form), 2, cuda), cuda.stream()
    written = cuda.pinned((2, rows, 160), np.float32, "logits")
    written.array[...] = np.arange(2 * rows * 160).reshape(2, rows, 160)
    stream.copy_in(buffer.address, written, written.array.nbytes)
    buffer.fetch_last(2, 3, stream)
    stream.wait()
    np.testing.assert_array_equal(buffer.last(2), written.array[:, -1:])
    if form == "growing":
        np.testing.assert_array_equal(buffer.all(2, 3, stream), written.array)
