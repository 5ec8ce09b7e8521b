"""The driver is called with the types of cuda.h, in order, and its refusals get words.

`Cuda` runs on a fake libcuda here; tests marked gpu run it on the driver.
"""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from castline.compiler.targets.tensorrt.cuda import Cuda, Stream
from castline.errors import TargetError


@pytest.fixture
def driver(fake_gpu: ModuleType) -> Any:
    return fake_gpu.FakeDriver()


@pytest.fixture
def cuda(driver: Any) -> Cuda:
    return Cuda(driver)


def test_tells_the_gpu(cuda: Cuda) -> None:
    assert (cuda.name, cuda.compute_capability) == ("NVIDIA Fake", "8.9")


def round_trip(cuda: Cuda) -> None:
    stream = cuda.stream()
    there = cuda.allocate(24, "numbers")
    source = cuda.pinned((2, 3), np.float32, "numbers")
    target = cuda.pinned((2, 3), np.float32, "numbers")
    source.array[...] = np.arange(6).reshape(2, 3)
    stream.copy_in(there.address, source, 24)
    stream.copy_out(target, there.address + 12, 12, offset=12)
    stream.wait()
    np.testing.assert_array_equal(target.array, [[0, 0, 0], [3, 4, 5]])
    stream.clear(there)
    stream.copy_out(target, there.address, 24)
    stream.wait()
    assert not target.array.any()


def replayed_copy(cuda: Cuda) -> None:
    stream = cuda.stream()
    there = cuda.allocate(8, "numbers")
    source = cuda.pinned((1,), np.int64, "numbers")
    target = cuda.pinned((1,), np.int64, "numbers")

    def work() -> None:
        stream.copy_in(there.address, source, 8)
        stream.copy_out(target, there.address, 8)

    graph = stream.recorded(work)
    stream.wait()
    assert target.array[0] == 0, "recording does nothing yet"
    for number in (7, 11):
        source.array[0] = number
        graph.launch()
        stream.wait()
        assert target.array[0] == number


def test_copies_there_and_back_in_order(cuda: Cuda) -> None:
    round_trip(cuda)


def test_a_graph_does_again_what_was_recorded(cuda: Cuda) -> None:
    replayed_copy(cuda)


@pytest.mark.gpu
def test_a_real_gpu_copies_and_replays() -> None:
    cuda = Cuda.open()
    assert float(cuda.compute_capability) >= 5
    round_trip(cuda)
    replayed_copy(cuda)


def test_nothing_is_done_before_the_wait(cuda: Cuda) -> None:
    stream, there = cuda.stream(), cuda.allocate(8, "numbers")
    target = cuda.pinned((1,), np.int64, "numbers")
    stream.copy_out(target, there.address, 8)
    assert target.array[0] == 0
    stream.wait()
    assert target.array[0] == -1  # memory that nobody wrote


def test_memory_is_given_back_with_its_object(cuda: Cuda, driver: Any) -> None:
    there, pinned = cuda.allocate(8, "numbers"), cuda.pinned((3,), np.int8, "numbers")
    assert (there.size, driver.device.used, driver.host.used) == (8, 8, 3)
    del there, pinned
    assert (driver.device.used, driver.host.used) == (0, 0)


def test_too_little_memory_is_told_with_what_is_free(fake_gpu: ModuleType) -> None:
    cuda = Cuda(fake_gpu.FakeDriver(memory=1000))
    kept = cuda.allocate(600, "logits")
    expected = r"no room for a cache: 500 bytes asked for, 400 of 1,000 free\. End what else"
    with pytest.raises(TargetError, match=expected):
        cuda.allocate(500, "a cache")
    assert kept.size == 600


def test_memory_that_was_given_back_is_an_error_at_the_wait(cuda: Cuda) -> None:
    stream = cuda.stream()
    address = cuda.allocate(8, "numbers").address
    target = cuda.pinned((1,), np.int64, "numbers")
    stream.copy_out(target, address, 8)
    with pytest.raises(TargetError, match=r"running the engine: .*700 \(CUDA_ERROR_ILLEGAL"):
        stream.wait()


def test_work_that_cannot_be_recorded_leaves_the_stream_usable(cuda: Cuda) -> None:
    stream = cuda.stream()
    with pytest.raises(TargetError, match="CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        stream.recorded(stream.wait)
    with pytest.raises(ZeroDivisionError):
        stream.recorded(lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    stream.wait()


def test_a_gpu_that_is_missing_is_told(fake_gpu: ModuleType) -> None:
    driver = fake_gpu.FakeDriver(starts=fake_gpu.NO_DEVICE)
    with pytest.raises(TargetError, match=r"starting the driver: cuInit returned 100 \(CUDA_ERROR"):
        Cuda(driver)


def test_a_status_that_the_driver_does_not_know_is_told_as_a_number(fake_gpu: ModuleType) -> None:
    with pytest.raises(TargetError, match=r"cuInit returned 12345 \(unknown to this driver\)"):
        Cuda(fake_gpu.FakeDriver(starts=12345))


@pytest.mark.parametrize("function", ["cuMemHostAlloc", "cuStreamCreate", "cuGraphLaunch"])
def test_every_status_becomes_an_error(cuda: Cuda, driver: Any, function: str) -> None:
    driver.fails[function] = 1
    with pytest.raises(TargetError, match=f"{function} returned 1"):
        replayed_copy(cuda)


def test_a_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> Stream:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with pytest.raises(TargetError, match=r"no NVIDIA driver \(libcuda\.so\.1 is not found\)"):
        Cuda.open()
