"""Compare engines with torch on a GPU: prefill and decode speed, memory, and the same tokens.

    python benchmarks/engine_generate.py                  SmolLM2, ours with and without plugins
    python benchmarks/engine_generate.py --model FOLDER   another Hugging Face folder

Without a GPU the engines are built and their graphs compared with torch on the processor; the
result then says that their speed is unmeasured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from engine_sides import NATIVE, SIDES, Form, agreement, build, refusal, room, target_here
from process import BenchmarkError, run_measured
from record import Run, machine, table, write_result
from sample import BUILD, NAME, sample_model
from token_speed import FOLLOWED, Task, read_task

from castline.compiler.calibration.text import load_text
from castline.compiler.calibration.windows import token_windows
from castline.compiler.targets.tensorrt.cuda import Cuda
from castline.compiler.targets.tensorrt.environment import device_capability
from castline.exporters.checkpoint import open_checkpoint

HERE = Path(__file__).parent
TORCH, COMPILED = "torch float16", "torch float16, compiled"
BASES = (TORCH, COMPILED, NATIVE)
SPEEDS = ("prefill", "decode")
COSTS = ("load_s", "first_s", "gpu_mb")
UNMEASURED = "unmeasured: no GPU"


@dataclass
class Findings:
    """What is known of the sides so far, each by its name."""

    built: dict[str, Any] = field(default_factory=dict)
    graphs: dict[str, list[int]] = field(default_factory=dict)
    """What each engine's graph chose, on the processor."""
    chosen: dict[str, list[int]] = field(default_factory=dict)
    """What each side chose on the GPU."""
    runs: list[Run] = field(default_factory=list)
    costs: list[Run] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    """Why a side does not count."""


@dataclass(frozen=True)
class Bench:
    """A model, what is asked of it, and the place for what is built."""

    model: Path
    form: Form
    folder: Path
    threads: int
    """Of what runs on the processor."""
    environment: Mapping[str, str]

    @property
    def gpu(self) -> bool:
        return self.form.capability is not None

    def child(self, side: str, task: Path) -> dict[str, Any]:
        """Let a side do a task on the GPU, in a process of its own; return what it found."""
        if side in SIDES:
            return self._token_speed("engine", side, task)
        static = ["--static", str(self.form.capacity)] if side == COMPILED else []
        return self._torch(task, "cuda", *static)

    def graph(self, side: str, task: Path) -> list[int]:
        """Return what an engine's graph chooses on the processor."""
        chosen: list[int] = self._token_speed("graph", side, task)["followed"]
        return chosen

    def reference(self, task: Path) -> list[int]:
        """Return torch's greedy tokens behind the first prompt."""
        greedy: list[int] = self._torch(task, "cuda" if self.gpu else "cpu")["greedy"]
        return greedy

    def out(self, side: str) -> Path:
        return self.folder / str(list(SIDES).index(side))

    def _token_speed(self, kind: str, side: str, task: Path) -> dict[str, Any]:
        script = [str(HERE / "token_speed.py"), kind, str(self.out(side)), str(task)]
        return self._json([*script, "--threads", str(self.threads)])

    def _torch(self, task: Path, device: str, *options: str) -> dict[str, Any]:
        script = [str(HERE / "peers" / "torch_generate.py"), str(self.model), str(task)]
        return self._json([*script, "--device", device, *options])

    def _json(self, command: Sequence[str]) -> dict[str, Any]:
        # Runtimes may print before; the result is the last line.
        lines = run_measured([sys.executable, *command], self.environment).stdout.splitlines()
        found: dict[str, Any] = json.loads(lines[-1])
        return found


def prepare(bench: Bench, task: Task) -> tuple[Task, Findings]:
    """Build the engines; compare their graphs with torch, whose tokens the returned task has."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    alone = bench.folder / "tokens.json"
    reference = bench.reference(replace(task, repetitions=0).write(alone))
    task = replace(task, follow=tuple(reference))
    found = Findings()
    replace(task, repetitions=0).write(alone)
    for name, side in SIDES.items():
        try:
            built = build(name, bench.model, bench.form, bench.out(name), bench.environment)
            found.graphs[name] = bench.graph(name, alone)
        except BenchmarkError as error:
            found.wrong[name] = str(error)
            continue
        found.built[name] = built
        wrong = refusal(found.graphs[name], reference, None) if side.alike_torch else None
        if wrong:
            found.wrong[name] = f"its graph on ONNX Runtime {wrong}"
        print(f"  {name}: {built['engine_mb']} MB in {built['build_s']} s", flush=True)
    return task, found


def measure(bench: Bench, task: Path, found: Findings, turns: int) -> None:
    """Let the sides answer turn by turn, in both orders; add to `found`.

    A side that fails, or chooses other tokens than it should, is wrong and is not asked again.
    """
    follow = read_task(task).follow
    for turn in range(turns):
        names = [TORCH, COMPILED, *found.built]
        for name in names if turn % 2 == 0 else names[::-1]:
            if name in found.wrong:
                continue
            try:
                measured = bench.child(name, task)
            except BenchmarkError as error:
                found.wrong[name] = str(error)
                continue
            found.chosen[name] = measured["followed"]
            alike = name not in SIDES or SIDES[name].alike_torch
            wrong = refusal(measured["followed"], follow if alike else None, found.graphs.get(name))
            if wrong:
                found.wrong[name] = wrong
            where: Run = {"side": name, "turn": turn}
            found.runs += [{**where, **run} for run in measured["runs"]]
            found.costs.append({**where, **{key: measured[key] for key in COSTS}})


def speeds(runs: Sequence[Run], side: str) -> dict[str, dict[str, float]]:
    """Return the median speeds of a side, by tokens of the prompt."""
    ours = [run for run in runs if run["side"] == side]
    return {
        str(tokens): {
            key: median(float(run[key]) for run in ours if run["prompt_tokens"] == tokens)
            for key in SPEEDS
        }
        for tokens in dict.fromkeys(run["prompt_tokens"] for run in ours)
    }


def ratios(runs: Sequence[Run], side: str, other: str) -> dict[str, dict[str, float]]:
    """Return the speed of `side` as a multiple of that of `other`, by tokens of the prompt.

    It is the median over turns that have both, so that a slow minute falls out.
    """
    turns = dict.fromkeys(run["turn"] for run in runs)
    found = []
    for turn in turns:
        now = [run for run in runs if run["turn"] == turn]
        found.append((speeds(now, side), speeds(now, other)))
    return {
        tokens: {
            key: round(median(one[tokens][key] / two[tokens][key] for one, two in both), 3)
            for key in SPEEDS
        }
        for tokens in dict.fromkeys(tokens for one, _ in found for tokens in one)
        if (both := [(one, two) for one, two in found if tokens in one and tokens in two])
    }


def sides_kept(found: Findings, follow: Sequence[int], *, gpu: bool) -> list[dict[str, Any]]:
    """Return all that is kept of each side; a wrong one has its reason in place of speeds."""
    kept = []
    for name in (*SIDES, TORCH, COMPILED):
        side: dict[str, Any] = {"side": name}
        if name in found.built:
            side["build"] = found.built[name]
        if name in found.graphs:
            side["graph_as_torch"] = agreement(found.graphs[name], follow)
        if name in found.chosen:
            side["as_torch"] = agreement(found.chosen[name], follow)
            if name in found.graphs:
                side["as_graph"] = agreement(found.chosen[name], found.graphs[name])
        if name in found.wrong:
            side["left_out"] = found.wrong[name]
        elif not gpu:
            side["left_out"] = UNMEASURED
        else:
            costs = [run for run in found.costs if run["side"] == name]
            side |= {key: median(float(run[key]) for run in costs) for key in COSTS}
            side["speeds"] = speeds(found.runs, name)
            bases = [base for base in BASES if base != name and base not in found.wrong]
            side["ratios"] = {base: ratios(found.runs, name, base) for base in bases}
        kept.append(side)
    return kept


def shown(kept: Sequence[Mapping[str, Any]], prompts: Sequence[int]) -> str:
    """Return the table of sides, and that of what each is as a multiple of the others."""
    titles = [f"{key} {tokens}" for tokens in prompts for key in SPEEDS]
    header = ["", "engine MB", "load s", "GPU MB", "graph=torch", "=torch", "=graph", *titles]
    rows, compared = [], []
    for side in kept:
        size = side.get("build", {}).get("engine_mb")
        costs = [_cell(number, ".1f") for number in (size, side.get("load_s"), side.get("gpu_mb"))]
        same = [_cell(side.get(k), ".0%") for k in ("graph_as_torch", "as_torch", "as_graph")]
        rows.append(
            [str(side["side"]), *costs, *same, *_speeds(side.get("speeds"), prompts, ".0f")]
        )
        compared += [
            [f"{side['side']} by {base}", *_speeds(ratio, prompts, ".2f")]
            for base, ratio in side.get("ratios", {}).items()
        ]
    tables = [table(header, rows)]
    return "\n\n".join([*tables, table(["ratio", *titles], compared)] if compared else tables)


def _speeds(found: Mapping[str, Any] | None, prompts: Sequence[int], form: str) -> list[str]:
    by_prompt = found or {}
    return [
        _cell(by_prompt.get(str(tokens), {}).get(key), form) for tokens in prompts for key in SPEEDS
    ]


def _cell(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


def prompts_of(model: Path, lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the beginnings of the shipped evaluation text, in tokens of the model."""
    tokenizer = open_checkpoint(str(model)).tokenizer()
    text = load_text(None, "evaluation")
    [tokens] = token_windows(tokenizer, text, length=max(lengths), count=1).tolist()
    return tuple(tuple(tokens[:length]) for length in lengths)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", type=Path, help=f"a Hugging Face folder ({NAME})")
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--new-tokens", type=int, default=128, help="decoded ones (128)")
    parser.add_argument("--turns", type=int, default=4, help="processes of each side (4)")
    parser.add_argument("--repetitions", type=int, default=5, help="of each prompt in each (5)")
    parser.add_argument("--threads", type=int, default=2, help="of what runs on the processor (2)")
    options = parser.parse_args(arguments)
    lengths: list[int] = options.prompt_tokens
    if min(*lengths, options.new_tokens, options.turns, options.repetitions, options.threads) < 1:
        parser.error("all numbers must be at least 1")
    capability = device_capability()
    target = target_here(gpu=capability is not None)
    if target is None:
        parser.error("no TensorRT is installed: pip install 'castline[tensorrt-rtx]'")
    model: Path = options.model or sample_model()
    capacity = room(lengths, max(options.new_tokens + 1, FOLLOWED))
    form = Form(target, capability, max(lengths), capacity)
    search = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
    place = BUILD / "engine-generate" / model.name
    bench = Bench(model, form, place, options.threads, {**offline, "PYTHONPATH": search})
    busy = machine()
    prompts = prompts_of(model, lengths)
    task, found = prepare(bench, Task(prompts, options.new_tokens, options.repetitions))
    if bench.gpu:
        measure(bench, task.write(bench.folder / "task.json"), found, options.turns)
    kept = sides_kept(found, task.follow, gpu=bench.gpu)
    content = {
        "model": model.name if options.model else NAME,
        "gpu": Cuda.open().name if bench.gpu else UNMEASURED,
        "reference": "torch, float16, GPU" if bench.gpu else "torch, float32, processor",
        "machine": busy,
        "form": asdict(form),
        **{key: getattr(options, key) for key in ("prompt_tokens", "new_tokens")},
        **{key: getattr(options, key) for key in ("turns", "repetitions", "threads")},
        "sides": kept,
        "costs": found.costs,
        "runs": found.runs,
    }
    print(f"\n{shown(kept, lengths)}\n")
    for name, reason in found.wrong.items():
        print(f"WRONG {name}: {reason}")
    if not bench.gpu:
        print(f"Speeds are {UNMEASURED}. Run this where there is one; it needs no other option.")
    named = "engine-generate" + (f"-{model.name}" if options.model else "")
    print(f"Kept in {write_result(named, content)}", flush=True)
    if found.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
