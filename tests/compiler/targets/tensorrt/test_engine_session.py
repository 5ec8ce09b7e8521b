"""Engines give the text of ONNX Runtime, token by token, on a GPU and a TensorRT that are fake.

The fake runs the graph that an engine is built from, at the addresses that it was given, when the
stream is waited for. tests/compiler/test_runner.py has those that run a real engine, marked gpu.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from castline.compiler.targets.sampling import Sampling
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.tensorrt.cuda import Cuda
from castline.compiler.targets.tensorrt.engine_session import EngineSession
from castline.errors import TargetError

FORMS = pytest.mark.parametrize(
    "form", ["growing", "fixed", "last", "fixed last", "sliced", "fixed sliced"]
)
PROMPT = np.array([[5, 9, 120, 33, 7, 7, 61]])
LONG = np.random.default_rng(3).integers(3, 150, (1, 21))  # three pieces of eight at the most


@pytest.fixture(params=[False, True], ids=["tensorrt", "tensorrt-rtx"])
def trt(request: pytest.FixtureRequest, fake_gpu: ModuleType) -> Any:
    return fake_gpu.FakeTensorRT(fake_gpu.FakeDriver(), rtx=request.param)


def opened(engine: Path, trt: Any, **options: Any) -> EngineSession:
    return EngineSession.open(engine, trt, cuda=Cuda(trt.driver), **options)


def reference(tiny: Any) -> DecoderSession:
    return DecoderSession.open(tiny("llama").graph, threads=1)


@FORMS
@pytest.mark.parametrize("prompt", [PROMPT, LONG[:, :8], LONG, LONG[:, :17], PROMPT[:, :1]])
def test_greedy_text_is_that_of_onnx_runtime(
    tiny: Any, engine_file: Callable[..., Path], trt: Any, form: str, prompt: np.ndarray
) -> None:
    session = opened(engine_file(form), trt)
    expected = list(reference(tiny).generate(prompt, max_new_tokens=9))
    assert len(set(expected)) > 3, "a text of one token proves little"
    assert list(session.generate(prompt, max_new_tokens=9)) == expected
    again = PROMPT[:, :4]
    assert list(session.generate(again, max_new_tokens=5)) == list(
        reference(tiny).generate(again, max_new_tokens=5)
    )


def test_a_long_prompt_is_read_in_pieces_under_the_profile_for_prompts(
    engine_file: Callable[..., Path], trt: Any
) -> None:
    list(opened(engine_file("growing"), trt).generate(LONG, max_new_tokens=3))
    prefill, decode = trt.contexts
    assert prefill.runs == [(1, 8), (1, 8), (1, 5)]
    assert decode.runs == [(1, 1), (1, 1)]


def test_fixed_caches_are_decoded_by_a_graph_and_growing_ones_are_not(
    engine_file: Callable[..., Path], fake_gpu: ModuleType
) -> None:
    launches = {}
    for form in ("growing", "fixed"):
        trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver())
        list(opened(engine_file(form), trt).generate(PROMPT, max_new_tokens=9))
        decode = trt.contexts[1]
        launches[form] = (trt.driver.calls["cuGraphLaunch"], len(decode.runs))
    # Of eight decoding steps the first runs plainly, the second is recorded, seven are replayed.
    assert launches == {"growing": (0, 8), "fixed": (7, 2)}


def test_a_graph_serves_the_next_text_too(
    tiny: Any, engine_file: Callable[..., Path], fake_gpu: ModuleType
) -> None:
    trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver())
    session = opened(engine_file("fixed"), trt)
    for prompt in (PROMPT, LONG, PROMPT):
        expected = list(reference(tiny).generate(prompt, max_new_tokens=9))
        assert list(session.generate(prompt, max_new_tokens=9)) == expected
    assert trt.driver.calls["cuStreamBeginCapture_v2"] == 1


@pytest.mark.parametrize(("form", "expected"), [("fixed", [False, True]), ("growing", [False] * 2)])
def test_tensorrt_rtx_replays_decoding_by_itself(
    engine_file: Callable[..., Path], fake_gpu: ModuleType, form: str, expected: list[bool]
) -> None:
    trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver(), rtx=True)
    list(opened(engine_file(form), trt).generate(PROMPT, max_new_tokens=4))
    assert [context.replays_itself for context in trt.contexts] == expected
    assert trt.driver.calls["cuStreamBeginCapture_v2"] == 0


def test_without_cuda_graphs_every_step_runs_plainly(
    engine_file: Callable[..., Path], trt: Any
) -> None:
    session = opened(engine_file("fixed"), trt, cuda_graph=False)
    list(session.generate(PROMPT, max_new_tokens=9))
    assert len(trt.contexts[1].runs) == 8
    assert not any(context.replays_itself for context in trt.contexts)


@pytest.mark.parametrize("form", ["growing", "fixed"])
def test_logits_of_padded_sequences_equal_onnx_runtime_s(
    tiny: Any, engine_file: Callable[..., Path], trt: Any, form: str
) -> None:
    ids = np.random.default_rng(1).integers(3, 150, (2, 19))
    mask = np.ones_like(ids)
    mask[0, :4] = 0
    logits = opened(engine_file(form), trt, batch=2).logits(ids, mask)
    expected = reference(tiny).logits(ids, mask)
    kept = mask.astype(bool)
    np.testing.assert_allclose(logits[kept], expected[kept], rtol=1e-4, atol=1e-4)


def test_sequences_of_a_batch_each_have_their_last_row(
    tiny: Any, engine_file: Callable[..., Path], trt: Any
) -> None:
    ids = np.random.default_rng(2).integers(3, 150, (2, 11))
    decoding = opened(engine_file("growing"), trt, batch=2).begin(2, 12)
    found = [decoding.step(ids[:, :10]), decoding.step(ids[:, 10:])]
    expected = reference(tiny).logits(ids)[:, 9:]
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=1e-4, atol=1e-4)


def test_sampling_draws_as_on_onnx_runtime(
    tiny: Any, engine_file: Callable[..., Path], trt: Any
) -> None:
    sampling = Sampling(temperature=3.0, top_k=20, repetition_penalty=1.2, seed=5)
    expected = list(reference(tiny).generate(PROMPT, max_new_tokens=9, sampling=sampling))
    session = opened(engine_file("fixed"), trt)
    assert list(session.generate(PROMPT, max_new_tokens=9, sampling=sampling)) == expected


@FORMS
def test_text_ends_where_the_cache_is_full(
    tiny: Any, engine_file: Callable[..., Path], trt: Any, form: str
) -> None:
    session = opened(engine_file(form), trt)
    # The longest past of a growing cache is 40 tokens, and one more is new; a fixed one holds 48.
    full = 48 if "fixed" in form else 41
    expected = list(reference(tiny).generate(LONG, max_new_tokens=full - 21))
    assert list(session.generate(LONG, max_new_tokens=500)) == expected


def test_text_ends_where_the_context_is_full(engine_file: Callable[..., Path], trt: Any) -> None:
    session = opened(engine_file("growing"), trt, context_length=10)
    assert len(list(session.generate(PROMPT, max_new_tokens=500))) == 3


def test_a_prompt_beyond_the_cache_is_refused(engine_file: Callable[..., Path], trt: Any) -> None:
    session = opened(engine_file("fixed"), trt)
    with pytest.raises(TargetError, match=r"49 tokens asked for, but it was built for 48\. Give a"):
        session.generate(np.full((1, 49), 5), max_new_tokens=1)
    decoding = session.begin(1, 48)
    decoding.step(np.full((1, 47), 5))
    with pytest.raises(TargetError, match=r"49 tokens asked for"):
        decoding.step(np.full((1, 2), 5))
    with pytest.raises(TargetError, match="prompt has no tokens"):
        next(session.generate(np.empty((1, 0), dtype=np.int64), max_new_tokens=1))


def test_more_sequences_than_it_was_built_for_are_refused(
    engine_file: Callable[..., Path], trt: Any
) -> None:
    with pytest.raises(TargetError, match="takes 2 sequences at a time, 3 asked for"):
        opened(engine_file("growing"), trt, batch=3)
    with pytest.raises(TargetError, match="2 sequences asked for, but there is room for 1"):
        opened(engine_file("growing"), trt).begin(2, 4)


def test_an_engine_that_takes_no_single_token_says_which_shapes_it_takes(
    engine_file: Callable[..., Path], trt: Any
) -> None:
    session = opened(engine_file("growing", profiles=[(4, 8)]), trt)
    expected = r"takes input_ids of \[1, 4\] to \[2, 8\].*not \[1, 1\] of 9 in all"
    with pytest.raises(TargetError, match=expected):
        session.begin(1, 20).step(LONG[:, :9])


@pytest.mark.parametrize("form", ["last", "sliced"])
def test_logits_of_every_token_are_refused_where_there_is_one_row(
    engine_file: Callable[..., Path], trt: Any, form: str
) -> None:
    with pytest.raises(TargetError, match=r"last token alone\. Build it with --logits all"):
        opened(engine_file(form), trt).logits(PROMPT)


def test_a_gpu_that_is_too_small_is_told_with_the_size(
    engine_file: Callable[..., Path], fake_gpu: ModuleType
) -> None:
    trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver(memory=100_000))
    # 4 tensors of 2 heads by 48 tokens by 32 floats, 12,288 bytes each, in two sets.
    expected = r"no room for keys and values of 1 x 48 tokens, twice: 98,304 bytes asked for"
    with pytest.raises(TargetError, match=expected):
        opened(engine_file("growing"), trt)


def test_both_phases_work_in_one_block_that_stays(
    engine_file: Callable[..., Path], trt: Any
) -> None:
    session = opened(engine_file("fixed"), trt)
    (block,) = {context.device_memory for context in trt.contexts}
    trt.driver.device.require(block, 12_345)
    for prompt in (PROMPT, LONG):
        list(session.generate(prompt, max_new_tokens=5))
    assert {context.device_memory for context in trt.contexts} == {block}


def test_a_gpu_without_room_to_work_in_is_told(
    engine_file: Callable[..., Path], fake_gpu: ModuleType
) -> None:
    trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver(memory=12_000))
    with pytest.raises(TargetError, match=r"no room for what the engine works in: 12,345 bytes as"):
        opened(engine_file("growing"), trt)


def test_what_fails_on_the_gpu_is_told(engine_file: Callable[..., Path], trt: Any) -> None:
    session = opened(engine_file("growing"), trt)
    trt.driver.fails["cuStreamSynchronize"] = 700
    with pytest.raises(TargetError, match=r"running the engine.*CUDA_ERROR_ILLEGAL_ADDRESS"):
        list(session.generate(PROMPT, max_new_tokens=2))


def test_all_memory_is_given_back_with_the_session(
    engine_file: Callable[..., Path], trt: Any
) -> None:
    session = opened(engine_file("fixed"), trt)
    list(session.generate(PROMPT, max_new_tokens=5))
    assert trt.driver.device.used > 0
    del session
    assert (trt.driver.device.used, trt.driver.host.used, trt.driver.streams) == (0, 0, {})
    assert trt.driver.graphs == {}
