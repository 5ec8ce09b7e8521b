"""Measure what reassembled channels cost at run time: one recipe's folder with and without."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from accuracy_cases import CALIBRATION
from paired_speed import SPEEDS, paired_runs, ratios, use_threads
from process import run_measured
from record import machine, medians, table, write_result
from sample import BUILD, NAME, fresh, sample_model

RECIPES = ("w4a8-qllm", "w6a6-qllm")
LENGTHS = (256, 64)  # tokens of the prompt, new tokens
WITH, WITHOUT = "with", "without"
# Reassembly alone: what scales and corrections do to weights takes no time when they are used.
ALONE = (CALIBRATION, "algorithm=round-to-nearest", "rounding=nearest", "correction=null")
SIDES = {WITH: ALONE, WITHOUT: (*ALONE, "reassembly=null")}


def compiled(recipe: str, side: str, threads: int) -> Path:
    """Compile one folder for ONNX Runtime; return it."""
    out = fresh(BUILD / "reassembly" / f"{recipe}-{side}")
    castline = str(Path(sys.executable).with_name("castline"))
    sets = [part for change in SIDES[side] for part in ("--set", change)]
    made = ["--recipe", recipe, *sets, "--target", "onnxruntime", "-o", str(out), "--no-gate"]
    environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    run_measured([castline, "compile", str(sample_model()), *made, "--quiet"], environment)
    use_threads(out, threads)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=4, help="processes, an even number (4)")
    parser.add_argument("--repetitions", type=int, default=9, help="pairs of runs in each (9)")
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads (1)")
    options = parser.parse_args()
    if options.turns < 2 or options.turns % 2:
        parser.error("--turns must be an even number: each side is loaded first as often")
    sample_model()
    busy, kept, rows = machine(), [], []
    for recipe in RECIPES:
        folders = {side: compiled(recipe, side, options.threads) for side in SIDES}
        runs = paired_runs(folders, LENGTHS, options.turns, options.repetitions)
        speed, typical = ratios(runs, WITH, WITHOUT), medians(runs, "side", SPEEDS)
        kept.append({"recipe": recipe, "medians": typical, "ratio": speed, "runs": runs})
        for side, found in [*typical.items(), ("ratio", speed)]:
            shown = (f"{found[key]:.3g}" for key in SPEEDS)
            rows.append([recipe, side, *shown])
    print(f"\n{table(['recipe', 'reassembly', *SPEEDS], rows)}\n", flush=True)
    lengths = {"prompt_tokens": LENGTHS[0], "new_tokens": LENGTHS[1]}
    content = {"model": NAME, **lengths, "threads": options.threads, "machine": busy}
    print(f"Kept in {write_result('reassembly', {**content, 'recipes': kept})}")


if __name__ == "__main__":
    main()
