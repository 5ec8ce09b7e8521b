"""Compare quantizers by what they leave of a model: SmoothQuant, AWQ and QLLM, ours and peers'."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import qllm_cases
import w8a8_cases
import weight_only_cases
from accuracy_cases import CASTLINE, SAMPLE, Case
from peer_environment import peer_python
from process import Cost, run_measured
from record import Run, folder_mb, machine, result_path, table, write_result
from sample import BUILD, NAME, fresh, sample_model

HERE = Path(__file__).parent
WORK = BUILD / "accuracy"
TARGET = "onnxruntime"
LANGUAGE = ("perplexity_original", "perplexity", "kl_divergence", "top1_agreement")


@dataclass(frozen=True)
class Material:
    """What every tool is given alike."""

    model: Path
    calibration: Path
    """.npy of tokens [samples, length]."""
    evaluation: Path
    """.npy of tokens [windows, length]."""


@dataclass(frozen=True)
class Suite:
    """Cases that are kept in one file."""

    result: str
    cases: tuple[Case, ...]
    threads: int
    """Of each process, where nothing else is asked for."""


SUITES = {
    "w8a8": Suite("accuracy", tuple(w8a8_cases.cases()), threads=2),
    # The searches are compared on one thread.
    "weight-only": Suite("accuracy-weight-only", tuple(weight_only_cases.cases()), threads=1),
    "qllm": Suite("accuracy-qllm", tuple(qllm_cases.cases()), threads=1),
}


@dataclass(frozen=True)
class Bench:
    """Materials by the name of their model, and how processes are run."""

    materials: Mapping[str, Material]
    pythons: Mapping[str, Path]
    """Of the peers that could be installed."""
    threads: int

    def run(self, command: Sequence[str]) -> Cost:
        environment = {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1"}
        return run_measured(command, environment)


def material(name: str) -> Material:
    """Return the model called `name` with its tokens; both made when first asked for."""
    model = sample_model() if name == SAMPLE else BUILD / "models" / "small-planted"
    if not model.exists():
        subprocess.run([sys.executable, str(HERE / "small_model.py"), str(model)], check=True)
    WORK.mkdir(parents=True, exist_ok=True)
    files = [WORK / f"{name}-{purpose}.npy" for purpose in ("calibration", "evaluation")]
    script = [sys.executable, str(HERE / "accuracy_tokens.py"), str(model), *map(str, files)]
    subprocess.run(script, check=True)
    return Material(model, *files)


def installed(tools: Iterable[str]) -> dict[str, Path]:
    """Return the interpreter of each of these peers that installs here; say which do not."""
    pythons = {}
    for tool in tools:
        try:
            pythons[tool] = peer_python(tool, BUILD / "venvs")
        except subprocess.CalledProcessError as error:
            print(f"  {tool} cannot be installed here and is left out: {error}", file=sys.stderr)
    return pythons


def measure_castline(case: Case, bench: Bench) -> Run:
    """Quantize, compile for ONNX Runtime, and judge what it computes there."""
    given = bench.materials[case.model]
    plan, out = fresh(WORK / "plan"), fresh(WORK / "out")
    castline = str(Path(sys.executable).with_name("castline"))
    sets = [part for change in case.changes for part in ("--set", change)]
    recipe = ["--recipe", case.recipe, *sets]
    search = None
    if case.needs_plan:
        made = [*recipe, "-o", str(plan), "--quiet"]
        search = bench.run([castline, "quantize", str(given.model), *made])
        recipe = ["--plan", str(plan)]
    # The losses are what is compared here: the gate must not end the measurement.
    lower = [*recipe, "--target", TARGET, "-o", str(out), "--no-gate", "--quiet"]
    compiled = bench.run([castline, "compile", str(given.model), *lower])
    judge = [sys.executable, str(HERE / "perplexity.py"), str(given.model), str(given.evaluation)]
    judged = bench.run([*judge, str(out), "--threads", str(bench.threads)])
    figures = json.loads(judged.stdout)
    return {
        **{key: figures[key] for key in LANGUAGE},
        "search_s": 0 if search is None else round(search.wall_s, 1),
        "search_cpu_s": 0 if search is None else round(search.cpu_s, 1),
        "peak_mb": round((search or compiled).peak_mb, 1),
        "compile_s": round(compiled.wall_s, 1),
        "compile_peak_mb": round(compiled.peak_mb, 1),
        "folder_mb": round(folder_mb(out), 1),
    }


def measure_peer(case: Case, bench: Bench) -> Run:
    """Quantize and judge in torch, where the peers end that run on a CPU."""
    given = bench.materials[case.model]
    script = [str(bench.pythons[case.tool]), str(HERE / "peers" / case.script)]
    files = [str(given.model), str(given.calibration), str(given.evaluation)]
    cost = bench.run([*script, *files, json.dumps(case.task), "--threads", str(bench.threads)])
    figures = json.loads(cost.stdout.splitlines()[-1])  # some report on stdout before it
    return {
        **{key: figures[key] for key in LANGUAGE},
        "search_s": round(cost.wall_s - figures["evaluation_s"], 1),
        "search_cpu_s": round(figures["cpu_s"], 1),
        "peak_mb": round(figures["peak_mb"], 1),
        "versions": json.dumps(figures["versions"]),
    }


def measure(case: Case, bench: Bench) -> Run:
    """Measure one case and print its line."""
    figures = (measure_castline if case.tool == CASTLINE else measure_peer)(case, bench)
    run: Run = {**named_fields(case), **figures}
    print("  " + "  ".join(line(run)), flush=True)
    return run


NAMING = ("model", "tool", "scheme", "bits", "method")


def named_fields(case: Case) -> Run:
    """Return what names a case in the results."""
    return {name: getattr(case, name) for name in NAMING}


def named(run: Run) -> tuple[str, ...]:
    """Return the name of a case that was measured, to be compared."""
    return tuple(str(run[name]) for name in NAMING)


def kept_runs(result: str, content: Mapping[str, object]) -> list[Run]:
    """Return what today's result holds already, if it was measured with the same threads."""
    path = result_path(result)
    if not path.is_file():
        return []
    kept = json.loads(path.read_text(encoding="utf-8"))
    same = all(kept[key] == content[key] for key in ("model", "target", "threads"))
    return list(kept["runs"]) if same else []


HEADER = ["tool", "model", "scheme", "bits", "method", "perplexity", "x float", "KL", "top 1 %"]
HEADER += ["search s", "peak MB"]


def line(run: Run) -> list[str]:
    """Return the figures of one case in the order of HEADER."""
    names = [str(run[key]) for key in ("tool", "model", "scheme", "bits", "method")]
    perplexity, original = float(run["perplexity"]), float(run["perplexity_original"])
    return [
        *names,
        f"{perplexity:.2f}",
        f"{perplexity / original:.4f}",
        f"{float(run['kl_divergence']):.4f}",
        f"{100 * float(run['top1_agreement']):.1f}",
        f"{float(run['search_s']):.0f}",
        f"{float(run['peak_mb']):.0f}",
    ]


def run_suite(suite: Suite, options: argparse.Namespace) -> None:
    """Measure the cases that are asked for; keep a result where they are all of the suite's."""
    asked = {name: value for name in NAMING if (value := getattr(options, name)) is not None}
    wanted = [
        case
        for case in suite.cases
        if all(str(named_fields(case)[name]) == value for name, value in asked.items())
    ]
    threads = options.threads or suite.threads
    pythons = installed(sorted({case.tool for case in wanted} - {CASTLINE}))
    materials = {name: material(name) for name in sorted({case.model for case in wanted})}
    bench = Bench(materials, pythons, threads)
    busy = machine()
    content = {"model": NAME, "target": TARGET, "threads": threads, "machine": busy}
    runs = kept_runs(suite.result, content) if options.go_on else []
    measured = {named(run) for run in runs}
    for case in wanted:
        if case.tool not in {CASTLINE, *pythons} or named(named_fields(case)) in measured:
            continue
        runs.append(measure(case, bench))
        if not asked:  # after each, for the whole takes hours
            write_result(suite.result, {**content, "runs": runs})
    print(f"\n{table(HEADER, [line(run) for run in runs])}\n")
    if not asked:
        print(f"Kept in {result_path(suite.result)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SUITES, help="one suite (default: all)")
    parser.add_argument("--threads", type=int, help="of each process (w8a8: 2, others: 1)")
    parser.add_argument(
        "--go-on", action="store_true", help="keep what today's result holds of an unfinished run"
    )
    for name in NAMING:
        parser.add_argument(f"--{name}", help="only cases with this one; no result is kept")
    options = parser.parse_args()
    for name in [options.only] if options.only else SUITES:
        run_suite(SUITES[name], options)


if __name__ == "__main__":
    main()
