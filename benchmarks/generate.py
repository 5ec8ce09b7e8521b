"""Compare folders for onnxruntime-genai: prefill and decode speed of ours and of its builder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from paired_speed import SPEEDS, paired_runs, ratios, use_threads
from process import run_measured
from record import Run, folder_mb, machine, table, write_result
from sample import BUILD, NAME, fresh, sample_model

PROMPT_TOKENS, NEW_TOKENS = 128, 64
OURS, BUILDER, OUR_FLOAT = "castline", "builder", "castline, float"
DYNAMIC = "quantize_dynamic"


@dataclass(frozen=True)
class Ours:
    """A folder of ours."""

    recipe: str
    changes: tuple[str, ...] = ()  # values of --set
    options: tuple[str, ...] = ()

    def commands(self, out: Path) -> list[list[str]]:
        script = str(Path(sys.executable).with_name("castline"))
        sets = [part for change in self.changes for part in ("--set", change)]
        recipe = ["--recipe", self.recipe, *sets, "--target", "onnxruntime"]
        # Speed is compared here: a loss that the gate would refuse must not end the measurement.
        place = ["-o", str(out), "--no-gate"]
        return [[script, "compile", str(sample_model()), *recipe, *self.options, *place]]


@dataclass(frozen=True)
class Builders:
    """A folder of onnxruntime-genai's model builder."""

    precision: str
    options: tuple[str, ...] = ()  # values of --extra_options

    def commands(self, out: Path) -> list[list[str]]:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        place = ["-i", str(sample_model()), "-o", str(out), "-c", str(BUILD / "cache")]
        extra = ["--extra_options", *self.options] if self.options else []
        return [[*builder, *place, "-p", self.precision, "-e", "cpu", *extra]]


@dataclass(frozen=True)
class Dynamic:
    """Our float folder, quantized by ONNX Runtime's own tool as Optimum does it."""

    def commands(self, out: Path) -> list[list[str]]:
        script = str(Path(__file__).parent / "peers" / "dynamic_int8.py")
        given = fresh(out.with_name(f"{out.name}-float"))
        return [*Ours("float").commands(given), [sys.executable, script, str(given), str(out)]]


@dataclass(frozen=True)
class Setting:
    """Two folders to compare: the first one's speed as a multiple of the second one's."""

    name: str
    sides: Mapping[str, Ours | Builders | Dynamic]
    alike: bool = True  # whether both store the same things in the same bits


@dataclass(frozen=True)
class Comparison:
    """How fast both sides are at one setting, tokens per second."""

    setting: Setting
    medians: Mapping[str, Mapping[str, float]]  # by side: prefill, decode, folder_mb
    ratio: Mapping[str, float]  # the first by the second
    runs: tuple[Run, ...]


def tables(bits: int, group_size: int, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Say how the head is stored, and the embedding that is tied to it."""
    scheme = (f"bits={bits}", f"group_size={group_size}", "symmetric=true")
    return tuple(f"{part}.{field}" for part in parts for field in scheme)


def int4(group_size: int) -> Ours:
    """The builder stores a tied embedding and head as one INT4 matrix; so do we when told."""
    both = tables(4, group_size, ("embedding", "head"))
    return Ours("w4a16-rtn-sym", (f"weights.group_size={group_size}", *both))


# How codes were found makes no difference to speed, and takes minutes.
_NOT_SEARCHED = ("algorithm=round-to-nearest", "rounding=nearest", "clipping=null")
_INT4_BY_INT8 = Ours(
    "w4a8-smoothquant-groups",
    ("weights.group_size=64", *tables(8, 64, ("embedding", "head")), *_NOT_SEARCHED),
)
_LAST = ("--logits", "last")
_OF_LAST_TOKEN = replace(_INT4_BY_INT8, options=_LAST)
_WITH_INT4_HEAD = Ours("w4a8-smoothquant-groups", (*int4(64).changes, *_NOT_SEARCHED), _LAST)
_INT4_OF_64 = Builders("int4", ("is_symmetric=true", "block_size=64"))
SETTINGS = (
    Setting(
        "INT4, groups of 32, head INT4",
        {OURS: int4(32), BUILDER: Builders("int4", ("is_symmetric=true", "block_size=32"))},
    ),
    Setting(
        "INT4, groups of 64, head INT4",
        {OURS: int4(64), BUILDER: _INT4_OF_64},
    ),
    Setting(
        "INT4, groups of 32, head float",
        {
            OURS: Ours("w4a16-rtn-sym", ("weights.group_size=32",)),
            BUILDER: Builders(
                "int4",
                ("is_symmetric=true", "block_size=32", "nodes_to_exclude=/lm_head/MatMul"),
            ),
        },
    ),
    Setting(
        # The builder keeps the embedding in float, apart from the head.
        "INT8, groups of 32, head INT8",
        {
            OURS: Ours(
                "w4a16-rtn-sym",
                ("weights.bits=8", "weights.group_size=32", *tables(8, 32, ("head",))),
            ),
            BUILDER: Builders("int8", ("is_symmetric=true", "block_size=32")),
        },
    ),
    Setting(
        "INT4 by INT8, groups of 64, head INT8, by INT4",
        {OURS: _INT4_BY_INT8, BUILDER: _INT4_OF_64},
        alike=False,
    ),
    Setting(
        # A prompt needs no more, and the builder's folder computes them all.
        "the same with logits of the last token",
        {OURS: _OF_LAST_TOKEN, BUILDER: _INT4_OF_64},
        alike=False,
    ),
    Setting("the same by dynamic INT8", {OURS: _OF_LAST_TOKEN, DYNAMIC: Dynamic()}, alike=False),
    Setting(
        "INT4 by INT8, groups of 64, head INT4, logits of the last token, by INT4",
        {OURS: _WITH_INT4_HEAD, BUILDER: _INT4_OF_64},
        alike=False,
    ),
    Setting("float", {OURS: Ours("float"), BUILDER: Builders("fp32")}),
    Setting("INT4, groups of 32, by float", {OURS: int4(32), OUR_FLOAT: Ours("float")}, False),
    Setting("INT4, groups of 64, by float", {OURS: int4(64), OUR_FLOAT: Ours("float")}, False),
)


def prepare(side: str, index: int, threads: int, environment: Mapping[str, str]) -> Path:
    """Build one folder and set its thread count; return it."""
    setting = SETTINGS[index]
    out = fresh(BUILD / "generate" / f"{list(setting.sides).index(side)}-{index}")
    wall_s = 0.0
    for command in setting.sides[side].commands(out):
        wall_s += run_measured(command, environment).wall_s
    print(f"  {side}, {setting.name}: built in {wall_s:.1f} s", flush=True)
    use_threads(out, threads)
    return out


def compare(index: int, options: argparse.Namespace, environment: Mapping[str, str]) -> Comparison:
    """Build and measure both sides of one setting, turn by turn."""
    setting = SETTINGS[index]
    folders = {side: prepare(side, index, options.threads, environment) for side in setting.sides}
    lengths = (PROMPT_TOKENS, NEW_TOKENS)
    runs = paired_runs(folders, lengths, options.turns, options.repetitions)
    typical = {
        side: {
            **{key: median(float(r[key]) for r in runs if r["side"] == side) for key in SPEEDS},
            "folder_mb": round(folder_mb(folders[side]), 1),
        }
        for side in folders
    }
    return Comparison(setting, typical, ratios(runs, *folders), runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=4, help="processes, an even number (4)")
    parser.add_argument("--repetitions", type=int, default=9, help="pairs of runs in each (9)")
    parser.add_argument("--threads", type=int, default=2, help="intra-op threads (2)")
    numbers = ", ".join(f"{number} {setting.name}" for number, setting in enumerate(SETTINGS))
    parser.add_argument(
        "--setting",
        type=int,
        choices=range(len(SETTINGS)),
        help=f"one of them, and no result is kept: {numbers}",
    )
    options = parser.parse_args()
    if options.turns < 2 or options.turns % 2:
        parser.error("--turns must be an even number: each side is loaded first as often")
    environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}

    sample_model()
    busy = machine()
    compared: list[Comparison] = []
    chosen = range(len(SETTINGS)) if options.setting is None else [options.setting]
    for index in chosen:
        compared.append(compare(index, options, environment))
        print_speeds(compared[-1])
    if options.setting is not None:
        return
    path = write_result(
        "generate",
        {
            "model": NAME,
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
    rows.append(["ratio", *(f"{comparison.ratio[key]:.2f}" for key in SPEEDS), ""])
    header = ["", "prefill", "decode", "MB"]
    print(f"\n{comparison.setting.name}\n{table(header, rows)}\n", flush=True)


if __name__ == "__main__":
    main()
