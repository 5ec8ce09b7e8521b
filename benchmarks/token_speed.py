"""Time the answers of one loaded model, and say which tokens it chooses, as JSON on stdout.

    python benchmarks/token_speed.py engine|graph FOLDER TASK

`engine` is the engine of an output folder, on the GPU; `graph` is the ONNX file that it was built
from, on the processor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ctypes import byref, c_size_t
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from process import BenchmarkError

from castline.cli.answer import Clock
from castline.compiler.runner import Runtime, open_runner
from castline.compiler.targets.generation import Steps, Tokens
from castline.compiler.targets.tensorrt.cuda import Cuda

FOLLOWED = 32  # greedy tokens by which models are compared
MB = 1e6
RUNTIMES: Mapping[str, Runtime] = {"engine": "engine", "graph": "onnxruntime"}
GpuMemory: TypeAlias = Callable[[], float]
"""Says how many MB of the GPU this process has taken since it began to ask."""


class Model(Protocol):
    """A loaded decoder, on whatever runtime."""

    def generate(self, input_ids: Tokens, *, max_new_tokens: int) -> Iterator[int]:
        """Yield the likeliest tokens behind the prompt `input_ids` [1, S], one by one."""
        ...

    def begin(self, batch: int, capacity: int) -> Steps:
        """Begin `batch` sequences that will have at most `capacity` tokens."""
        ...


@dataclass(frozen=True)
class Task:
    """What every side does."""

    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int
    repetitions: int
    """Of each prompt; 0 asks for tokens alone."""
    follow: tuple[int, ...] = ()
    """What another model wrote behind the first prompt."""

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path


def read_task(path: Path) -> Task:
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["prompts"] = tuple(map(tuple, stored["prompts"]))
    stored["follow"] = tuple(stored["follow"])
    return Task(**stored)


def measure(
    opened: Callable[[], Model], task: Task, held: GpuMemory | None = None
) -> dict[str, Any]:
    """Load a model, let it answer, and return seconds, tokens and tokens per second.

    `first_s` is the first answer, in which runtimes compile; it warms up, and is not in `runs`.
    `gpu_mb` is what the process holds at its end: no runtime here gives anything back before.
    """
    start = time.perf_counter()
    model = opened()
    load_s = time.perf_counter() - start
    start = time.perf_counter()
    greedy = list(model.generate(row(task.prompts[0]), max_new_tokens=FOLLOWED))
    found: dict[str, Any] = {
        "load_s": round(load_s, 3),
        "first_s": round(time.perf_counter() - start, 3),
        "greedy": greedy,
        "followed": followed(model, task.prompts[0], task.follow),
        "runs": timed(model, task),
    }
    return found if held is None else {**found, "gpu_mb": round(held(), 3)}


def timed(model: Model, task: Task) -> list[dict[str, float]]:
    """Return both speeds of each repetition of each prompt, warmed up by one that is left out."""
    runs = []
    for prompt in task.prompts if task.repetitions else ():
        run_once(model, prompt, task.new_tokens)
        for _ in range(task.repetitions):
            speed = run_once(model, prompt, task.new_tokens)
            runs.append({"prompt_tokens": len(prompt), **speed})
    return runs


def run_once(model: Model, prompt: Sequence[int], new_tokens: int) -> dict[str, float]:
    """Prefill `prompt` and decode `new_tokens`; return both in tokens per second.

    The clock is that of `castline generate`: a token counts when the host has it, and the first
    one, which comes from the prompt's own logits, counts to the prefill.
    Raises BenchmarkError where fewer tokens come.
    """
    clock = Clock(len(prompt))
    for _ in clock.timed(model.generate(row(prompt), max_new_tokens=new_tokens + 1)):
        pass
    if clock.new_tokens != new_tokens + 1 or clock.prefill is None or clock.decode is None:
        raise BenchmarkError(
            f"{clock.new_tokens} tokens came behind a prompt of {len(prompt)}, expected "
            f"{new_tokens + 1}: the model's context or its cache is too short for this."
        )
    return {"prefill": round(clock.prefill, 2), "decode": round(clock.decode, 2)}


def followed(model: Model, prompt: Sequence[int], follow: Sequence[int]) -> list[int]:
    """Return the token that a model finds likeliest at each place of `follow`, behind `prompt`.

    It reads what is in `follow` and not what it chose, so one tie does not change all that comes.
    """
    decoding = model.begin(1, len(prompt) + len(follow)) if follow else None
    chosen: list[int] = []
    new = row(prompt)
    for token in follow:
        assert decoding is not None, "there is something to follow"
        logits: NDArray[np.float32] = decoding.step(new)
        chosen.append(int(logits[0, -1].argmax()))
        new = row([token])
    return chosen


def row(tokens: Sequence[int]) -> Tokens:
    """Return tokens as a batch of one, [1, S]."""
    return np.array([tokens], dtype=np.int64)


def gpu_memory() -> GpuMemory:
    """Open the first GPU; what is returned says how much of it was taken since.

    All processes count, so nothing else should use the GPU; this one's bare context does not.
    """
    cuda = Cuda.open()

    def used() -> int:
        free, total = c_size_t(), c_size_t()
        cuda.call("cuMemGetInfo_v2", byref(free), byref(total), doing="asking for free memory")
        return total.value - free.value

    before = used()
    return lambda: (used() - before) / MB


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("kind", choices=list(RUNTIMES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("task", type=Path, help="what to answer, as JSON: see Task")
    parser.add_argument("--threads", type=int, help="of the graph on the processor (all cores)")
    options = parser.parse_args()
    kind: Literal["engine", "graph"] = options.kind
    held = gpu_memory() if kind == "engine" else None
    opened = partial(open_runner, options.folder, RUNTIMES[kind], threads=options.threads)
    # Both kinds of runner are stepped, too; open_runner promises only that they generate.
    print(json.dumps(measure(opened, read_task(options.task), held)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
