"""Compare INT4 folders: prefill and decode speed of ours and of onnxruntime-genai's builder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from paired_speed import SPEEDS, paired_runs, ratios, use_threads
from process import run_measured
from record import Run, folder_mb, machine, table, write_result
from sample import BUILD, NAME, fresh, sample_model

PROMPT_TOKENS, NEW_TOKENS = 128, 64
RECIPE = "w4a16-rtn-sym"
OURS, BUILDER = "castline", "builder"


@dataclass(frozen=True)
class Setting:
    """One way to quantize, said to both sides."""

    name: str
    castline: tuple[str, ...]  # values of --set
    builder: tuple[str, ...]  # values of --extra_options


@dataclass(frozen=True)
class Comparison:
    """How fast both sides are at one setting, tokens per second."""

    setting: Setting
    medians: Mapping[str, Mapping[str, float]]  # by side: prefill, decode, folder_mb
    ratio: Mapping[str, float]  # ours by theirs; empty when one side is measured alone
    runs: tuple[Run, ...]


def int4_table(group_size: int) -> tuple[str, ...]:
    """The builder stores a tied embedding and head as one INT4 matrix; so do we when told."""
    scheme = ("bits=4", f"group_size={group_size}", "symmetric=true")
    return tuple(f"{part}.{field}" for part in ("embedding", "head") for field in scheme)


SETTINGS = (
    Setting(
        "groups of 32, head int4",
        ("weights.group_size=32", *int4_table(32)),
        ("is_symmetric=true", "block_size=32"),
    ),
    Setting(
        "groups of 64, head int4",
        ("weights.group_size=64", *int4_table(64)),
        ("is_symmetric=true", "block_size=64"),
    ),
    Setting(
        "groups of 32, head float",
        ("weights.group_size=32",),
        ("is_symmetric=true", "block_size=32", "nodes_to_exclude=/lm_head/MatMul"),
    ),
)


def castline_compile(setting: Setting, out: Path) -> list[str]:
    script = str(Path(sys.executable).with_name("castline"))
    sets = [part for value in setting.castline for part in ("--set", value)]
    recipe = ["--recipe", RECIPE, *sets, "--target", "onnxruntime"]
    # Speed is compared here: a loss that the gate would refuse must not end the measurement.
    return [script, "compile", str(sample_model()), *recipe, "-o", str(out), "--no-gate"]


def model_builder(setting: Setting, out: Path) -> list[str]:
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    place = ["-i", str(sample_model()), "-o", str(out), "-c", str(BUILD / "cache")]
    return [*builder, *place, "-p", "int4", "-e", "cpu", "--extra_options", *setting.builder]


SIDES = {OURS: castline_compile, BUILDER: model_builder}


def prepare(side: str, index: int, threads: int, environment: Mapping[str, str]) -> Path:
    """Build one folder and set its thread count; return it."""
    out = fresh(BUILD / "generate" / f"{side}-{index}")
    command = SIDES[side](SETTINGS[index], out)
    cost = run_measured(command, environment)
    print(f"  {side}, {SETTINGS[index].name}: built in {cost.wall_s:.1f} s", flush=True)
    use_threads(out, threads)
    return out


def compare(
    setting: Setting,
    index: int,
    sides: list[str],
    options: argparse.Namespace,
    environment: Mapping[str, str],
) -> Comparison:
    """Build and measure every side of one setting, turn by turn."""
    folders = {side: prepare(side, index, options.threads, environment) for side in sides}
    lengths = (PROMPT_TOKENS, NEW_TOKENS)
    runs = paired_runs(folders, lengths, options.turns, options.repetitions)
    typical = {
        side: {
            **{key: median(float(r[key]) for r in runs if r["side"] == side) for key in SPEEDS},
            "folder_mb": round(folder_mb(folders[side]), 1),
        }
        for side in sides
    }
    compared = ratios(runs, OURS, BUILDER) if len(sides) > 1 else {}
    return Comparison(setting, typical, compared, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=4, help="processes, an even number (4)")
    parser.add_argument("--repetitions", type=int, default=9, help="pairs of runs in each (9)")
    parser.add_argument("--threads", type=int, default=2, help="intra-op threads (2)")
    parser.add_argument("--only", choices=[OURS, BUILDER], help="no result is kept")
    options = parser.parse_args()
    if options.turns < 2 or options.turns % 2:
        parser.error("--turns must be an even number: each side is loaded first as often")
    environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    sides = [side for side in SIDES if options.only in (None, side)]

    sample_model()
    busy = machine()
    compared: list[Comparison] = []
    for index in range(len(SETTINGS)):
        compared.append(compare(SETTINGS[index], index, sides, options, environment))
        print_speeds(compared[-1])
    if options.only:
        return
    path = write_result(
        "generate",
        {
            "model": NAME,
            "recipe": RECIPE,
            "prompt_tokens": PROMPT_TOKENS,
            "new_tokens": NEW_TOKENS,
            "threads": options.threads,
            "turns": options.turns,
            "repetitions": options.repetitions,
            "machine": busy,
            "settings": [asdict(comparison) for comparison in compared],
        },
    )
    print(f"Kept in {path}")


def print_speeds(comparison: Comparison) -> None:
    """Print one setting's medians in tokens per second, and our ratio."""
    rows = [
        [side, *(f"{speed[key]:.0f}" for key in SPEEDS), f"{speed['folder_mb']:.0f}"]
        for side, speed in comparison.medians.items()
    ]
    if comparison.ratio:
        rows.append(["ratio", *(f"{comparison.ratio[key]:.2f}" for key in SPEEDS), ""])
    header = ["", "prefill", "decode", "MB"]
    print(f"\n{comparison.setting.name}\n{table(header, rows)}\n", flush=True)


if __name__ == "__main__":
    main()
