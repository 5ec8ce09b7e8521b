from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from castline.compiler.targets.tensorrt.cuda import Cuda, Memory
from castline.compiler.targets.tensorrt.edition import EDITIONS, TENSORRT_RTX
from castline.compiler.targets.tensorrt.engine import Engine, Tensor, tensorrt_module
from castline.errors import TargetError


@pytest.fixture
def trt(fake_gpu: ModuleType) -> Any:
    return fake_gpu.FakeTensorRT(fake_gpu.FakeDriver())


@pytest.fixture
def engine(engine_file: Callable[..., Path], trt: Any) -> Engine:
    return Engine(engine_file("growing"), trt)


@pytest.fixture
def stream(trt: Any) -> Iterator[int]:
    made = Cuda(trt.driver).stream()
    yield made.handle
    del made  # no earlier: it takes the stream with it


@pytest.fixture
def memory(trt: Any) -> Memory:
    return Cuda(trt.driver).allocate(12_345, "what the engine works in")


def test_tells_the_inputs_outputs_and_their_ranges(engine: Engine) -> None:
    ids, past = engine.tensors["input_ids"], engine.tensors["past_key_values.1.value"]
    assert (ids.is_input, ids.dtype, ids.shape) == (True, np.dtype(np.int64), (-1, -1))
    assert ids.ranges == (((1, 1), (2, 8)), ((1, 1), (2, 1)))
    assert (past.shape, past.largest) == ((-1, 2, -1, 32), (2, 2, 40, 32))
    logits = engine.tensors["logits"]
    assert (logits.is_input, logits.shape, logits.ranges) == (False, (-1, -1, 160), ())
    assert engine.profiles == 2


def test_a_tensor_takes_shapes_of_its_profile_alone() -> None:
    ids = Tensor("x", True, np.dtype(np.int64), (-1, -1), (((1, 1), (2, 8)), ((1, 1), (2, 1))))
    assert [ids.takes(shape, 0) for shape in ((2, 8), (2, 9), (0, 1), (1,))] == [
        True, False, False, False,
    ]  # fmt: skip
    assert (ids.takes((1, 2), 1), ids.takes((1, 1), 1)) == (False, True)


@pytest.mark.parametrize("kept", [0, 40])
def test_an_engine_cut_short_is_told_with_tensorrt_s_reason(
    engine_file: Callable[..., Path], trt: Any, kept: int
) -> None:
    file = engine_file("growing")
    file.write_bytes(file.read_bytes()[:kept])
    reason = r" \(the header is wrong\)" if kept else ""
    expected = (
        rf"TensorRT 10\.9\.0\.34 cannot load.*operating system{reason}\. Copy.*castline build"
    )
    with pytest.raises(TargetError, match=expected):
        Engine(file, trt)


def test_a_missing_file_is_told(tmp_path: Path, trt: Any) -> None:
    with pytest.raises(TargetError, match=r"none\.engine: the engine cannot be read: No such"):
        Engine(tmp_path / "none.engine", trt)


def test_the_reasons_of_a_second_engine_are_told_though_the_first_one_has_the_logger(
    engine_file: Callable[..., Path], engine: Engine, trt: Any
) -> None:
    file = engine_file("growing")
    file.write_bytes(b"cut")
    with pytest.raises(TargetError, match=r"cannot load.*\(the header is wrong\)"):
        Engine(file, trt)
    assert engine.refused("run").args[0].count("the header is wrong") == 1


def test_a_runtime_that_does_not_start_is_told_with_tensorrt_s_reason(
    engine_file: Callable[..., Path], trt: Any
) -> None:
    trt.starts = False
    expected = r"TensorRT 10\.9\.0\.34 does not start \(CUDA init.* error: 35\).*driver is older"
    with pytest.raises(TargetError, match=expected):
        Engine(engine_file("growing"), trt)


def test_an_element_type_that_cannot_be_fed_is_told(
    engine_file: Callable[..., Path], trt: Any, fake_gpu: ModuleType, monkeypatch: Any
) -> None:
    monkeypatch.setitem(fake_gpu.TYPES, "tensor(float)", (fake_gpu.DataType.BOOL, np.bool_))
    with pytest.raises(TargetError, match="of type BOOL, which cannot be fed"):
        Engine(engine_file("growing"), trt)


def test_a_context_that_is_not_made_is_told_with_what_it_was_given(
    engine: Engine, trt: Any, stream: int, memory: Memory
) -> None:
    trt.makes_contexts = False
    expected = r"and the 12,345 bytes that it is to.*\(no memory for activations\)\. End what"
    with pytest.raises(TargetError, match=expected):
        engine.context(0, stream, memory)


@pytest.mark.parametrize("version", ["10.0.1.6", "10.9.0.34"])
def test_contexts_work_in_the_memory_that_they_are_given(
    engine_file: Callable[..., Path], fake_gpu: ModuleType, version: str
) -> None:
    trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver(), version=version)
    cuda = Cuda(trt.driver)
    engine, stream = Engine(engine_file("growing"), trt), cuda.stream()
    assert engine.working_memory == 12_345
    memory = cuda.allocate(engine.working_memory, "working")
    engine.context(0, stream.handle, memory)
    engine.context(1, stream.handle, memory)
    assert [one.device_memory for one in trt.contexts] == [memory.address] * 2


def test_too_little_memory_to_work_in_is_the_caller_s_fault(
    engine: Engine, trt: Any, stream: int
) -> None:
    with pytest.raises(AssertionError, match="large enough"):
        engine.context(0, stream, Cuda(trt.driver).allocate(12_344, "working"))


@pytest.mark.parametrize(
    ("version", "rtx", "told"),
    [("10.14.1.48", False, None), ("10.15.1.29", False, True), ("1.7.1.116", True, True)],
)
def test_tells_which_outputs_are_in_the_memory_of_inputs(
    engine_file: Callable[..., Path], fake_gpu: ModuleType, version: str, rtx: bool, told: Any
) -> None:
    trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver(), rtx=rtx, version=version)
    engine = Engine(engine_file("fixed"), trt)
    assert engine.tells_aliases == bool(told)
    assert engine.tensors["present.1.key"].alias == (told and "past_key_values.1.key")
    assert engine.tensors["logits"].alias is None


def test_what_is_to_be_in_the_memory_of_the_host_is_refused(
    engine_file: Callable[..., Path], trt: Any
) -> None:
    trt.on_host = ("input_ids", "logits")
    with pytest.raises(TargetError, match=r"wants input_ids, logits in the memory of the host"):
        Engine(engine_file("growing"), trt)


def test_what_tensorrt_refuses_is_told_with_what_it_logged(
    engine: Engine, stream: int, memory: Memory
) -> None:
    context = engine.context(0, stream, memory)
    with pytest.raises(TargetError, match=r"take input_ids of shape \[1, 9\] \(input_ids: \[1, 9"):
        context.shape("input_ids", (1, 9))
    with pytest.raises(TargetError, match=r"take an address for logits \(.*bad address 5"):
        context.address("logits", 5)
    with pytest.raises(TargetError, match=r"choose the optimization profile 0 \(.*is in use"):
        engine.context(0, stream, memory)
    with pytest.raises(TargetError, match=r"run the engine \(.*not set: input_ids"):
        context.enqueue(stream)


def test_a_context_counts_what_changes(engine: Engine, stream: int, memory: Memory) -> None:
    context = engine.context(0, stream, memory)
    counts = []
    for length, address in ((4, 256), (4, 256), (5, 256), (5, 512)):
        context.shape("input_ids", (1, length))
        context.address("input_ids", address)
        counts.append(context.changes)
    assert counts == [2, 2, 3, 4]


@pytest.mark.parametrize("edition", EDITIONS, ids=lambda edition: edition.name)
def test_a_missing_tensorrt_is_told_with_how_to_get_it(
    edition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, edition.module, None)
    with pytest.raises(TargetError, match=rf"with {edition.title}, whose .* {edition.module} "):
        tensorrt_module(edition)


@pytest.mark.tensorrt
def test_tensorrt_rtx_itself_refuses_an_engine_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "model.engine"
    file.write_bytes(b"ftrt" + bytes(100))
    with pytest.raises(TargetError, match=r"cannot load this engine: it is cut short.*Error Code"):
        Engine(file, tensorrt_module(TENSORRT_RTX))


@pytest.mark.tensorrt
def test_tensorrt_rtx_itself_has_what_the_fake_has() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    assert real.TensorLocation.HOST != real.TensorLocation.DEVICE
    assert real.ExecutionContextAllocationStrategy.USER_MANAGED.name == "USER_MANAGED"
    assert hasattr(real.IRuntimeConfig, "set_execution_context_allocation_strategy")
    of_engine = ("get_tensor_location", "get_aliased_input_tensor", "device_memory_size_v2")
    assert [name for name in of_engine if not hasattr(real.ICudaEngine, name)] == []
    assert hasattr(real.IExecutionContext, "set_device_memory")
