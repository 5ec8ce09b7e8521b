"""Check the clock and the tokens by which engines and torch are compared."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from castline.compiler import runner
from castline.compiler.package.manifest import write_manifest
from castline.compiler.runner import open_runner
from castline.compiler.targets.tensorrt.cuda import Cuda
from castline.compiler.targets.write import write_model
from castline.exporters.checkpoint import open_checkpoint
from castline.exporters.export import export

VOCABULARY, CAPACITY = 64, 64
FAKES = Path(__file__).resolve().parents[1] / "compiler"


class Counting:
    """Writes, behind any token, the next number; `tokens` are those it has been given."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.tokens: list[int] = []

    def generate(self, input_ids: np.ndarray, *, max_new_tokens: int) -> Iterator[int]:
        first = int(input_ids[0, -1]) + 1
        yield from range(first, first + min(max_new_tokens, self.room - input_ids.shape[1]))

    def begin(self, batch: int, capacity: int) -> Counting:
        assert batch == 1
        assert capacity <= self.room
        return self

    def step(self, input_ids: np.ndarray, attention_mask: None = None) -> np.ndarray:
        assert attention_mask is None
        self.tokens += input_ids[0].tolist()
        logits = np.zeros((1, 1, 2000), np.float32)
        logits[0, 0, self.tokens[-1] + 1] = 1
        return logits


def test_a_task_is_read_as_it_was_written(tmp_path: Path) -> None:
    from token_speed import Task, read_task

    task = Task(((1, 2), (1, 2, 3)), 5, 2, (7, 8))
    assert read_task(task.write(tmp_path / "task.json")) == task


def test_every_repetition_of_every_prompt_is_told() -> None:
    from token_speed import FOLLOWED, Task, measure

    found = measure(Counting, Task(((5,), (5, 6, 7)), 4, 2), lambda: 12.34)
    assert [run["prompt_tokens"] for run in found["runs"]] == [1, 1, 3, 3]
    assert all(run["prefill"] > 0 and run["decode"] > 0 for run in found["runs"])
    assert found["greedy"] == list(range(6, 6 + FOLLOWED))
    assert found["gpu_mb"] == 12.34
    assert found["followed"] == []


def test_without_repetitions_tokens_alone_are_asked_for() -> None:
    from token_speed import Task, measure

    found = measure(Counting, Task(((5,),), 4, 0, (6, 7)))
    assert found["runs"] == []
    assert found["followed"] == [6, 7]
    assert "gpu_mb" not in found, "nobody asked a GPU"


def test_what_another_wrote_is_read_in_place_of_what_was_chosen() -> None:
    from token_speed import followed

    model = Counting()
    assert followed(model, [1, 2], [9, 20, 4]) == [3, 10, 21]
    assert model.tokens == [1, 2, 9, 20], "the last is compared and not read"


def test_an_answer_that_ends_early_is_no_measurement() -> None:
    from process import BenchmarkError
    from token_speed import run_once

    with pytest.raises(BenchmarkError, match="5 tokens came behind a prompt of 3, expected 9"):
        run_once(Counting(room=8), [1, 2, 3], 8)


@pytest.fixture(scope="module")
def fakes() -> ModuleType:
    """Return the fake driver and TensorRT that the tests of the compiler use."""
    both = ModuleType("fakes")
    for name in ("fake_cuda", "fake_tensorrt"):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FAKES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        vars(both).update(vars(module))
    return both


def test_memory_is_what_was_taken_since(fakes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from token_speed import gpu_memory

    cuda = Cuda(fakes.FakeDriver())
    before = cuda.allocate(7_000_000, "what is there")
    monkeypatch.setattr(Cuda, "open", classmethod(lambda _: cuda))
    held = gpu_memory()
    assert held() == 0
    more = cuda.allocate(5_000_000, "what is new")
    assert held() == 5
    assert before.size + more.size == 12_000_000


@pytest.fixture
def folder(fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with an engine that runs on a fake GPU."""
    trt = fakes.FakeTensorRT(fakes.FakeDriver())
    monkeypatch.setattr(runner, "runnable_here", lambda: None)
    monkeypatch.setattr(runner, "tensorrt_module", lambda _edition: trt)
    monkeypatch.setattr(Cuda, "open", classmethod(lambda cls: cls(trt.driver)))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    lengths = {"vocab_size": VOCABULARY, "max_position_embeddings": 256}
    # Big weights: with the usual ones a random model repeats one token, whatever its cache holds.
    config = LlamaConfig(**lengths, **sizes, **heads, initializer_range=0.5)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "checkpoint")
    out = tmp_path / "out"
    out.mkdir()
    exported = export(open_checkpoint(str(tmp_path / "checkpoint"))).model
    graph = write_model(exported, tmp_path / "out")
    onnx.save(onnx.load(graph), out / "model.onnx")
    cache = ((1, 1, 0, 16), (1, 1, CAPACITY, 16))
    profiles = [
        {
            **dict.fromkeys(("input_ids", "position_ids"), ((1, 1), (1, most))),
            "attention_mask": ((1, 1), (1, CAPACITY + most)),
            **{f"past_key_values.0.{slot}": cache for slot in ("key", "value")},
        }
        for most in (8, 1)
    ]
    (out / "model.engine").write_bytes(fakes.serialized(out / "model.onnx", profiles))
    decoder = {"context_length": CAPACITY, "decoder": {"filename": "model.onnx"}}
    (out / "genai_config.json").write_text(json.dumps({"model": decoder}))
    build = {
        "engine": "model.engine",
        "edition": "tensorrt",
        "version": "10.9.0.34",
        "compute_capabilities": ["8.9"],
        "plugins": None,
    }
    write_manifest(out, {"target": "tensorrt", "build": build})
    return out


def test_an_engine_and_its_graph_choose_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import token_speed

    graph = partial(open_runner, folder, "onnxruntime", threads=1)
    prompt = (5, 9, 33, 7)
    task = token_speed.Task((prompt,), 4, 1)
    first: Any = token_speed.measure(graph, task)
    assert len(set(first["greedy"])) > 5
    file = token_speed.Task((prompt,), 4, 1, tuple(first["greedy"])).write(tmp_path / "task.json")
    answers = {}
    for kind in ("engine", "graph"):
        command = ["token_speed.py", kind, str(folder), str(file), "--threads", "1"]
        monkeypatch.setattr(sys, "argv", command)
        token_speed.main()
        answers[kind] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert answers[kind]["followed"] == first["greedy"]
        assert [run["prompt_tokens"] for run in answers[kind]["runs"]] == [len(prompt)]
    assert answers["engine"]["gpu_mb"] > 0
    assert "gpu_mb" not in answers["graph"]
