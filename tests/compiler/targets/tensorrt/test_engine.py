from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

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
def stream(trt: Any) -> int:
    trt.driver.streams[1] = object()
    return 1


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


def test_a_context_that_is_not_made_is_told_with_its_need(
    engine: Engine, trt: Any, stream: int
) -> None:
    trt.makes_contexts = False
    expected = r"needs 12,345 bytes on the GPU.*\(no memory for activations\)\. End what"
    with pytest.raises(TargetError, match=expected):
        engine.context(0, stream)


def test_what_tensorrt_refuses_is_told_with_what_it_logged(engine: Engine, stream: int) -> None:
    context = engine.context(0, stream)
    with pytest.raises(TargetError, match=r"take input_ids of shape \[1, 9\] \(input_ids: \[1, 9"):
        context.shape("input_ids", (1, 9))
    with pytest.raises(TargetError, match=r"take an address for logits \(.*bad address 5"):
        context.address("logits", 5)
    with pytest.raises(TargetError, match=r"choose the optimization profile 0 \(.*is in use"):
        engine.context(0, stream)
    with pytest.raises(TargetError, match=r"run the engine \(.*not set: input_ids"):
        context.enqueue(stream)


def test_a_context_counts_what_changes(engine: Engine, stream: int) -> None:
    context = engine.context(0, stream)
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
