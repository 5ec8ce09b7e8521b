"""Measure folders for onnxruntime-genai against each other, so that load and order fall out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from process import run_measured
from record import Run

SPEEDS = ("prefill", "decode")


def use_threads(folder: Path, threads: int) -> None:
    """Let a folder be computed on so many threads."""
    path = folder / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")


def paired_runs(
    folders: Mapping[str, Path], lengths: tuple[int, int], turns: int, repetitions: int
) -> tuple[Run, ...]:
    """Return tokens per second of each repetition of each side, turn by turn.

    `lengths` are the tokens of the prompt, and how many are new. Of two copies of one folder, the
    one loaded last was measured 10 % faster, so turns, which are processes, load in both orders.
    """
    runs: list[Run] = []
    for turn in range(turns):
        loaded = list(folders) if turn % 2 == 0 else list(folders)[::-1]
        speeds = _measure([folders[side] for side in loaded], lengths, repetitions)
        for side, measured in zip(loaded, speeds, strict=True):
            runs += [
                {"side": side, "turn": turn, "pair": pair, "loaded_first": loaded[0], **speed}
                for pair, speed in enumerate(measured)
            ]
    return tuple(runs)


def _measure(
    folders: Sequence[Path], lengths: tuple[int, int], repetitions: int
) -> list[list[dict[str, float]]]:
    """Return the same of each folder, in turn in one new process."""
    script = [sys.executable, str(Path(__file__).with_name("speed.py")), *map(str, folders)]
    asked = ["--prompt-tokens", str(lengths[0]), "--new-tokens", str(lengths[1])]
    cost = run_measured([*script, *asked, "--repetitions", str(repetitions)], {})
    runs: list[list[dict[str, float]]] = json.loads(cost.stdout)
    return runs


def ratios(runs: Sequence[Run], side: str, other: str) -> dict[str, float]:
    """Return the speed of `side` as a multiple of that of `other`.

    It is the median over pairs of runs that follow one another, so the machine's load falls out,
    for each order of loading, and the geometric mean of the two, so the order does too.
    """
    speeds = {(run["side"], run["turn"], run["pair"]): run for run in runs}
    ours = [run for run in runs if run["side"] == side]

    def of_order(first: str, key: str) -> float:
        return median(
            float(run[key]) / float(speeds[other, run["turn"], run["pair"]][key])
            for run in ours
            if run["loaded_first"] == first
        )

    return {key: round(math.sqrt(of_order(side, key) * of_order(other, key)), 3) for key in SPEEDS}
