"""Compare engine building by wall time and peak memory: build_engine and Polygraphy's loaders.

Both read the same ONNX file, in processes of their own, with the same profiles, and write the
engine; Polygraphy's is the shortest program that its documentation suggests.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from process import BenchmarkError, run_measured
from record import Run, machine, medians, table, write_result
from sample import BUILD, NAME, fresh, sample_model

HERE = Path(__file__).parent
OURS, PLAIN = "build_engine", "Polygraphy's EngineBytesFromNetwork"
SCRIPTS = {OURS: HERE / "castline_engine.py", PLAIN: HERE / "peers" / "polygraphy_engine.py"}
COSTS = ("wall_s", "cpu_s", "peak_mb", "engine_mb")
GOAL = 1.3
RECIPE = "w4a16-rtn-sym"  # TensorRT's own operators compute all of it, so both need no plugins


def compiled(recipe: str, model: Path) -> Path:
    """Return a folder with the model compiled for tensorrt-rtx; made when first asked for."""
    folder = BUILD / "engines" / f"{model.name}-{recipe}"
    if not (folder / "manifest.json").is_file():
        castline = str(Path(sys.executable).with_name("castline"))
        options = ["-r", recipe, "-t", "tensorrt-rtx", "--no-gate", "-o", str(folder), "--quiet"]
        subprocess.run([castline, "compile", str(model), *options], check=True)
    return folder


def built(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a compiled folder says of its engine."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    build: dict[str, Any] = manifest["build"]
    return build


def measure(case: str, folder: Path, profiles: Path, environment: Mapping[str, str]) -> Run:
    """Build the engine of a compiled folder once, by one of the two."""
    engine = fresh(BUILD / "engine-build") / "model.engine"
    engine.parent.mkdir()
    command = [sys.executable, str(SCRIPTS[case]), str(folder / "model.onnx"), str(engine)]
    cost = run_measured([*command, str(profiles)], environment)
    if not engine.is_file():
        raise BenchmarkError(f"{case} ended without an error and without an engine")
    run: Run = {
        "case": case,
        "wall_s": round(cost.wall_s, 3),
        "cpu_s": round(cost.cpu_s, 3),
        "peak_mb": round(cost.peak_mb, 1),
        "engine_mb": round(engine.stat().st_size / 1e6, 3),
    }
    print(f"  {case}: {run['wall_s']} s, {run['peak_mb']} MB", flush=True)
    fresh(engine.parent)
    return run


def ratios(costs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return how many times the plain way's cost ours is, for wall time, CPU time and memory."""
    keys = ("wall_s", "cpu_s", "peak_mb")
    return {key: round(costs[OURS][key] / costs[PLAIN][key], 3) for key in keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each case (3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process (2)")
    parser.add_argument("--compiled", type=Path, help="a compiled folder; no result is kept")
    options = parser.parse_args()
    environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    folder = options.compiled or compiled(RECIPE, sample_model())
    profiles = BUILD / "engines" / "profiles.json"
    profiles.parent.mkdir(parents=True, exist_ok=True)
    profiles.write_text(json.dumps(built(folder)["profiles"]), encoding="utf-8")
    busy = machine()
    # Interleaved, so that a slow minute of the machine falls on both alike.
    runs = [
        measure(case, folder, profiles, environment)
        for _ in range(options.repetitions)
        for case in SCRIPTS
    ]
    costs = medians(runs, "case", COSTS)
    rows = [[name, *(f"{cost[key]:.1f}" for key in COSTS)] for name, cost in costs.items()]
    print(f"\n{table(['builder', 'wall s', 'CPU s', 'peak MB', 'engine MB'], rows)}\n")
    ratio = ratios(costs)
    print(f"wall time {ratio['wall_s']:.2f} times the plain way's; the goal is {GOAL}")
    if options.compiled:
        return
    path = write_result(
        "engine-build",
        {
            "model": NAME,
            "recipe": RECIPE,
            "threads": options.threads,
            "repetitions": options.repetitions,
            "machine": busy,
            "tensorrt_rtx": built(folder)["version"],
            "goal": GOAL,
            "ratios": ratio,
            "medians": costs,
            "runs": runs,
        },
    )
    print(f"Kept in {path}")


if __name__ == "__main__":
    main()
