"""Time the kernels of low-bit products beside cuBLAS in float16, and check them before.

    python benchmarks/gemm.py                 on a GPU, in at most ten minutes
    python benchmarks/gemm.py --emulated      the same checks on tiny shapes, without times

Both keep a result; that of the second says that nothing was measured.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean

import torch
from gemm_accuracy import errors
from gemm_goals import SHAPES, TOKENS, goal
from gemm_problems import SCHEMES, Operands, Problem, Weights
from gemm_timing import Timing, ceilings, copies_of, interleaved
from record import Run, machine, table, write_result
from torch import Tensor

from castline.plugins.binding import Kernels, Scratch
from castline.plugins.emulation import build_emulated
from castline.plugins.library import find_library

BUILD = Path(__file__).resolve().parents[1] / "build" / "benchmarks" / "emulated"
TIMED = ("W4A16", "W8A8", "W4A8", "W4A8 groups", "W4A4 QLLM")
EMULATED_SHAPES, EMULATED_TOKENS = ((64, 16), (160, 48)), (1, 9, 17, 257)
UNMEASURED = "unmeasured: no GPU"
BANDWIDTH_TOKENS = 64  # up to here, memory is the limit that a time is held against
SEED = 7


class Case:
    """A problem with its tensors, of a scheme at a shape and a number of tokens."""

    def __init__(
        self, kernels: Kernels, problem: Problem, weights: Weights, matrix: Tensor
    ) -> None:
        """Run the prologue; `matrix` is the weight in float64."""
        self.kernels, self.problem, self.weights, self.matrix = kernels, problem, weights, matrix
        self.operands = problem.operands(seeded(problem.device))
        if problem.scheme.integer:
            problem.prologue(kernels, self.operands, 0)
        integer = problem.scheme.integer
        found = kernels.tactics(problem.product, integer=integer, max_m=problem.m)
        self.tactics = (0, *found)
        self.scratch = {each: problem.scratch(kernels, each) for each in self.tactics}

    def wrong(self) -> Iterator[str]:
        """Yield what is wrong, by tactic."""
        reference = self.problem.reference(self.weights, self.matrix, self.operands)
        run = self.problem.call(self.kernels, self.weights, self.operands)
        for tactic, (scratch, _) in self.scratch.items():
            first = self._result(run, tactic, scratch)
            refusal = errors(first, reference).refusal(self.problem.dtype, self.problem.kind)
            if refusal:
                yield f"tactic {tactic}: {refusal}"
            elif not torch.equal(first, self._result(run, tactic, scratch)):
                yield f"tactic {tactic}: a second run differs"

    def calls(
        self, sets: Sequence[Weights], tactic: int, *, prologue: bool
    ) -> list[Callable[[int], None]]:
        """Return a call for each set of weights, with or without what makes its codes."""
        scratch = self.scratch[tactic][0]

        def one(weights: Weights, stream: int) -> None:
            if prologue and self.problem.scheme.integer:
                self.problem.prologue(self.kernels, self.operands, stream)
            self.problem.call(self.kernels, weights, self.operands, stream)(tactic, scratch)

        return [partial(one, each) for each in sets]

    def _result(self, run: Callable[[int, Scratch], None], tactic: int, scratch: Scratch) -> Tensor:
        to: Operands = self.operands
        to.y.fill_(math.nan)
        run(tactic, scratch)
        return to.y.clone()


def seeded(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(SEED)


def emulated_checks(kernels: Kernels) -> tuple[list[Run], list[str]]:
    """Check all schemes, types and tactics on tiny shapes; return what was run, what is wrong."""
    ran: list[Run] = []
    wrong: list[str] = []
    for scheme in SCHEMES:
        for k, n in EMULATED_SHAPES:
            for dtype in (torch.float16, torch.bfloat16):
                problem = Problem(scheme, 1, n, k, dtype, "cpu")
                weights = problem.weights(seeded("cpu"))
                matrix = problem.matrix(weights)
                for m in EMULATED_TOKENS:
                    case = Case(kernels, replace(problem, m=m), weights, matrix)
                    where: Run = {"scheme": scheme.name, "k": k, "n": n, "m": m, "type": str(dtype)}
                    ran.append({**where, "tactics": len(case.tactics)})
                    wrong += [f"{where}: {each}" for each in case.wrong()]
    return ran, wrong


def measured(kernels: Kernels, tops: dict[str, float], until: float) -> tuple[list[Run], list[str]]:
    """Check and time each scheme at each shape until the time is over; return runs and failures."""
    runs: list[Run] = []
    wrong: list[str] = []
    for k, n in SHAPES:
        for scheme in (each for each in SCHEMES if each.name in TIMED):
            problem = Problem(scheme, 1, n, k, torch.float16, "cuda")
            weights = problem.weights(seeded("cuda"))
            matrix = problem.matrix(weights)
            sets = rotated(weights)
            for m in TOKENS:
                where: Run = {"scheme": scheme.name, "k": k, "n": n, "m": m}
                if time.monotonic() > until:
                    runs.append({**where, "left_out": "the time was over"})
                    continue
                case = Case(kernels, replace(problem, m=m), weights, matrix)
                found = list(case.wrong())
                wrong += [f"{where}: {each}" for each in found]
                if not found:
                    runs.append({**where, **timed(case, sets, tops)})
    return runs, wrong


def rotated(weights: Weights) -> list[Weights]:
    """Return sets of weights that differ in their codes, more of them than a cache holds."""
    count = copies_of(weights.packed.numel())
    others = (torch.randint_like(weights.packed, -128, 127) for _ in range(count - 1))
    return [weights, *(replace(weights, packed=each) for each in others)]


def timed(case: Case, sets: Sequence[Weights], tops: dict[str, float]) -> dict[str, float | int]:
    """Time cuBLAS, the product by its fastest tactic, and the product with its prologue."""
    problem = case.problem
    tactics = [case.calls(sets, each, prologue=False) for each in case.tactics]
    speeds = [each.us for each in interleaved(tactics)]
    tactic = case.tactics[speeds.index(min(speeds))]
    library = cublas(problem)
    ours = [case.calls(sets, tactic, prologue=each) for each in (False, True)]
    base, alone, whole = interleaved([library, *ours])
    return {
        "tactic": tactic,
        **named("cublas", base),
        **named("product", alone),
        **named("whole", whole),
        "ratio": base.us / whole.us,
        "goal": goal(problem.scheme.name, problem.m, problem.k, problem.n),
        "of_ceiling": of_ceiling(case, alone, tops),
    }


def named(name: str, timing: Timing) -> dict[str, float]:
    return {f"{name}_{key}": round(value, 3) for key, value in asdict(timing).items()}


def cublas(problem: Problem) -> list[Callable[[int], None]]:
    """Return calls of torch's product in float16, over weights that no cache holds."""
    m, n, k = problem.m, problem.n, problem.k
    x = torch.randn(m, k, dtype=torch.float16, device="cuda")
    y = torch.empty(m, n, dtype=torch.float16, device="cuda")
    weights = torch.randn(copies_of(2 * n * k), n, k, dtype=torch.float16, device="cuda")

    def product(weight: Tensor, _: int) -> None:
        torch.mm(x, weight.T, out=y)

    return [partial(product, each) for each in weights]


def of_ceiling(case: Case, timing: Timing, tops: dict[str, float]) -> float:
    """Return the part of copy bandwidth that few tokens reach, or of the matrix rate that many."""
    problem, seconds = case.problem, timing.us / 1e6
    if problem.m <= BANDWIDTH_TOKENS:
        inputs = case.operands.codes if problem.scheme.integer else case.operands.x
        moved = [case.weights.packed, case.weights.scales, inputs, case.operands.y]
        moved += [] if case.weights.offsets is None else [case.weights.offsets]
        size = sum(each.numel() * each.element_size() for each in moved)
        return float(size) / seconds / tops["copy_bytes_per_s"]
    kind = "int8" if problem.scheme.integer else "bfloat16"
    return 2.0 * problem.m * problem.n * problem.k / seconds / tops[f"{kind}_operations_per_s"]


def shown(runs: Sequence[Run]) -> str:
    """Return the table: a row for a scheme, a shape and some tokens; then geometric means."""
    header = [
        "scheme",
        "K",
        "N",
        "M",
        "cuBLAS us",
        "us",
        "with prologue",
        "ratio",
        "goal",
        "ceiling",
    ]
    rows = [row(run) for run in runs]
    for scheme in dict.fromkeys(str(run["scheme"]) for run in runs):
        for m in TOKENS:
            found = [run for run in runs if run["scheme"] == scheme and run["m"] == m]
            ratios = [float(run["ratio"]) for run in found if "ratio" in run]
            if ratios:
                mean = f"{geometric_mean(ratios):.2f}"
                rows.append([scheme, "all", "all", str(m), "", "", "", mean, "", ""])
    return table(header, rows)


def row(run: Run) -> list[str]:
    where = [str(run[key]) for key in ("scheme", "k", "n", "m")]
    if "ratio" not in run:
        wanted = f"{goal(str(run['scheme']), int(run['m']), int(run['k']), int(run['n'])):.2f}"
        return [*where, *[str(run["left_out"])] * 3, "", wanted, ""]
    times = [f"{float(run[key]):.2f}" for key in ("cublas_us", "product_us", "whole_us")]
    ratio, wanted = (f"{float(run[key]):.2f}" for key in ("ratio", "goal"))
    return [*where, *times, ratio, wanted, f"{100 * float(run['of_ceiling']):.0f} %"]


def unmeasured() -> list[Run]:
    """Return the runs that there would be on a GPU, each with what is said of it."""
    return [
        {"scheme": scheme, "k": k, "n": n, "m": m, "left_out": UNMEASURED}
        for k, n in SHAPES
        for scheme in TIMED
        for m in TOKENS
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--emulated", action="store_true", help="check only, without a GPU")
    parser.add_argument("--library", type=Path, help="the kernels (those `castline` finds)")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no case after these (9)")
    options = parser.parse_args(arguments)
    started, busy = time.monotonic(), machine()
    if not options.emulated and not torch.cuda.is_available():
        parser.error(f"{UNMEASURED}. --emulated checks the kernels on this machine's processor")
    tops: dict[str, float] = {}
    if options.emulated:
        kernels = Kernels(options.library or build_emulated(BUILD))
        checks, wrong = emulated_checks(kernels)
        runs, device = unmeasured(), UNMEASURED
    else:
        kernels, checks = Kernels(options.library or find_library().path), []
        tops, device = ceilings(), torch.cuda.get_device_name()
        runs, wrong = measured(kernels, tops, started + 60 * options.minutes)
    content = {"gpu": device, "machine": busy, "library": kernels.build_info, "ceilings": tops}
    kept = write_result("gemm", {**content, "wrong": wrong, "checks": checks, "runs": runs})
    for each in wrong:
        print(f"WRONG {each}")
    print(f"\n{shown(runs)}\n\n{device}; {len(checks)} cases checked apart, {len(wrong)} wrong")
    print(f"Kept in {kept}", flush=True)
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
