"""Compare exporters by wall time, CPU time and peak memory: checkpoint to float ONNX decoder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from process import BenchmarkError, Cost, run_measured
from record import Run, folder_mb, machine, medians, table, write_result
from sample import BUILD, NAME, WHOLE, fresh, sample_model

HERE = Path(__file__).parent
DEPTHS = (2, 8, WHOLE)
WRITING = "Writing weights"  # the one stage of ours that must grow with the model
OURS = "castline export"
COSTS = ("wall_s", "cpu_s", "peak_mb", "written_mb")


@dataclass(frozen=True)
class Case:
    """One exporter: its name, and its command for a checkpoint and an output folder."""

    name: str
    command: Callable[[Path, Path], list[str]]


def castline_export(model: Path, out: Path) -> list[str]:
    return [str(Path(sys.executable).with_name("castline")), "export", str(model), "-o", str(out)]


def script(name: str) -> Callable[[Path, Path], list[str]]:
    return lambda model, out: [sys.executable, str(HERE / name), str(model), str(out)]


def model_builder(model: Path, out: Path) -> list[str]:
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    place = ["-i", str(model), "-o", str(out), "-c", str(BUILD / "cache")]
    return [*builder, *place, "-p", "fp32", "-e", "cpu"]


CASES = (
    Case(OURS, castline_export),
    Case("torch.onnx.export", script("peers/torch_onnx.py")),
    Case("transformers.exporters", script("peers/transformers_onnx.py")),
    Case("onnxruntime-genai builder", model_builder),
)
STAGED = Case(f"{OURS}, by stages", script("staged_export.py"))


def measure(case: Case, layers: int, environment: Mapping[str, str]) -> tuple[Run, Cost]:
    """Export the sample model, cut to `layers`, once into an empty folder."""
    out = fresh(BUILD / "export")
    cost = run_measured(case.command(sample_model(layers), out), environment)
    if not (out / "model.onnx").exists():
        raise BenchmarkError(f"{case.name} ended without an error and without a model.onnx")
    run: Run = {
        "case": case.name,
        "layers": layers,
        "wall_s": round(cost.wall_s, 3),
        "cpu_s": round(cost.cpu_s, 3),
        "peak_mb": round(cost.peak_mb, 1),
        "written_mb": round(folder_mb(out), 1),
    }
    print(f"  {case.name}, {layers} layers: {run['wall_s']} s, {run['peak_mb']} MB", flush=True)
    fresh(out)
    return run, cost


def measure_depth(layers: int, environment: Mapping[str, str]) -> Run:
    """Export a cut of the model by Castline; tell the writing of weights from the rest."""
    run, cost = measure(STAGED, layers, environment)
    stages: dict[str, float] = json.loads(cost.stdout)
    rest = round(float(run["wall_s"]) - stages[WRITING], 3)
    return {**run, "writing_s": stages[WRITING], "rest_s": rest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each case (3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process (2)")
    parser.add_argument("--only", choices=[case.name for case in CASES], help="no result is kept")
    options = parser.parse_args()
    environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    cases = [case for case in CASES if options.only in (None, case.name)]

    for layers in DEPTHS:
        sample_model(layers)
    busy = machine()
    # Interleaved, so that a slow minute of the machine falls on all cases alike.
    runs = [
        measure(case, WHOLE, environment)[0] for _ in range(options.repetitions) for case in cases
    ]
    print_costs(medians(runs, "case", COSTS))
    if options.only:
        return
    depth_runs = [
        measure_depth(layers, environment) for _ in range(options.repetitions) for layers in DEPTHS
    ]
    depths = medians(depth_runs, "layers", ("wall_s", "writing_s", "rest_s", "peak_mb"))
    print_depths(depths)
    path = write_result(
        "export",
        {
            "model": NAME,
            "precision": "fp32, from fp16 safetensors",
            "threads": options.threads,
            "repetitions": options.repetitions,
            "machine": busy,
            "medians": medians(runs, "case", COSTS),
            "depths": depths,
            "runs": runs,
            "depth_runs": depth_runs,
        },
    )
    print(f"\nKept in {path}")


def print_costs(costs: Mapping[str, Mapping[str, float]]) -> None:
    """Print each case's medians, and its wall time and memory as multiples of ours."""
    ours = costs.get(OURS)
    rows = []
    for name, cost in costs.items():
        ratios = [f"{cost[key] / ours[key]:.2f}" if ours else "-" for key in ("wall_s", "peak_mb")]
        figures = [f"{cost['wall_s']:.1f}", f"{cost['cpu_s']:.1f}", f"{cost['peak_mb']:.0f}"]
        rows.append([name, *figures, f"{cost['written_mb']:.0f}", *ratios])
    header = ["exporter", "wall s", "CPU s", "peak MB", "written MB", "x our wall", "x our peak"]
    print(f"\n{table(header, rows)}\n")


def print_depths(depths: Mapping[str, Mapping[str, float]]) -> None:
    """Print how our time and memory go with the number of layers."""
    keys = ("wall_s", "writing_s", "rest_s", "peak_mb")
    rows = [[layers, *(f"{cost[key]:.1f}" for key in keys)] for layers, cost in depths.items()]
    header = ["layers", "wall s", "writing s", "the rest s", "peak MB"]
    print(f"\n{table(header, rows)}\n")


if __name__ == "__main__":
    main()
