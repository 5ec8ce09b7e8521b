"""Compare the forms of a mixture of experts on ONNX Runtime: milliseconds per layer."""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from expert_forms import FORMS, Form, Sizes, tokens
from record import Run, machine, medians, table, write_result

from castline.compiler.targets.write import write_model

SIZES = (
    Sizes(hidden=1024, inner=2048, experts=8, chosen=2),
    Sizes(hidden=512, inner=256, experts=64, chosen=8),
)
THREADS = (1, 2)
TOKENS = (1, 16, 512)
LEAST_SECONDS, LEAST_REPETITIONS = 0.3, 3
ERROR = {"fp32": 1e-5, "int8": 5e-2, "int4": 5e-1}
"""What the answer may differ by from the dense fp32 form's, relative to its largest number."""


def opened(form: Form, sizes: Sizes, threads: int) -> onnxruntime.InferenceSession:
    """Return a session of one form, as ONNX Runtime optimizes it by default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(form.build(sizes), Path(folder))
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def milliseconds(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> float:
    """Return the median time of a run, after one to warm up."""
    session.run(None, feed)
    spent: list[float] = []
    while len(spent) < LEAST_REPETITIONS or sum(spent) < LEAST_SECONDS:
        start = time.perf_counter()
        session.run(None, feed)
        spent.append(time.perf_counter() - start)
    return 1e3 * median(spent)


def measure(sizes: Sizes, threads: int, turn: int) -> list[Run]:
    """Return the time of every form at every number of tokens."""
    runs: list[Run] = []
    wanted: dict[int, np.ndarray] = {}
    for form in FORMS:
        session = opened(form, sizes, threads)
        for count in (count for count in TOKENS if count <= form.longest):
            feed = tokens(sizes, count)
            answer = session.run(None, feed)[0]
            exact = wanted.setdefault(count, answer)  # the first form is dense fp32
            error = float(np.abs(answer - exact).max() / np.abs(exact).max())
            assert error <= ERROR[form.weights], f"{form.name} {form.weights} is wrong: {error:.1e}"
            runs.append(
                {
                    "form": f"{form.weights} {form.name}",
                    "experts": sizes.experts,
                    "threads": threads,
                    "tokens": count,
                    "turn": turn,
                    "ms": round(milliseconds(session, feed), 4),
                    "error": error,
                }
            )
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="rounds through all forms (3)")
    options = parser.parse_args()
    busy = machine()
    runs: list[Run] = []
    settings = []
    for turn in range(options.turns):
        for sizes in SIZES:
            for threads in THREADS:
                runs += measure(sizes, threads, turn)
    for sizes in SIZES:
        for threads in THREADS:
            typical = typical_times(runs, sizes, threads)
            settings.append({"sizes": asdict(sizes), "threads": threads, "median_ms": typical})
            print_times(sizes, threads, typical)
    content = {"machine": busy, "turns": options.turns, "settings": settings, "runs": runs}
    print(f"Kept in {write_result('experts', content)}")


def typical_times(runs: list[Run], sizes: Sizes, threads: int) -> dict[str, dict[str, float]]:
    """Return, per form, the median over turns of the time at each number of tokens."""
    typical: dict[str, dict[str, float]] = {}
    for count in TOKENS:
        chosen = [
            run
            for run in runs
            if (run["experts"], run["threads"], run["tokens"]) == (sizes.experts, threads, count)
        ]
        for form, of in medians(chosen, "form", ["ms"]).items():
            typical.setdefault(form, {})[str(count)] = of["ms"]
    return typical


def print_times(sizes: Sizes, threads: int, typical: dict[str, dict[str, float]]) -> None:
    """Print milliseconds per layer."""
    rows = [
        [form, *(f"{times[str(count)]:.2f}" if str(count) in times else "-" for count in TOKENS)]
        for form, times in typical.items()
    ]
    print(f"\n{sizes}, {threads} threads, ms by tokens")
    print(table(["", *map(str, TOKENS)], rows), flush=True)


if __name__ == "__main__":
    main()
