"""Name the engines whose speed is compared, build them in the form of production, and judge them.

That form: a cache of fixed capacity, logits of the last token alone, one sequence at a time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from process import BenchmarkError, run_measured
from sample import fresh

from castline.compiler.targets.tensorrt.edition import TENSORRT, TENSORRT_RTX

MB = 1e6
ALIGNMENT = 64  # of a cache's capacity, in tokens

# How codes were found makes no difference to speed, and takes minutes.
_NOT_SEARCHED = ("algorithm=round-to-nearest", "rounding=nearest", "clipping=null")
_SAME = 0.9  # of tokens: two precisions of one function differ where two tokens are all but equal


@dataclass(frozen=True)
class Side:
    """An engine of ours: its recipe, and the plugin that computes its linears."""

    recipe: str
    changes: tuple[str, ...] = ()  # values of --set
    plugin: str | None = None
    """None: TensorRT's own operators compute all of it."""
    alike_torch: bool = False
    """Whether it is to choose torch's tokens; else they are lost to 4 bits, and only told."""


OFFSETS = "INT4 with zero-points, plugins"
BYTES = "INT4 by INT8, plugins"
NATIVE = "INT4, TensorRT's own"
FLOAT = "float16, TensorRT's own"
SIDES: Mapping[str, Side] = {
    OFFSETS: Side("w4a16-awq", _NOT_SEARCHED, "PackedLinearW4A16"),
    BYTES: Side("w4a8-smoothquant-groups", _NOT_SEARCHED, "PackedLinearW4A8Groups"),
    # In the others' groups of 128, so that as many scales are read.
    NATIVE: Side("w4a16-rtn-sym", ("weights.group_size=128",)),
    FLOAT: Side("float", alike_torch=True),
}


@dataclass(frozen=True)
class Form:
    """What all engines are built for."""

    target: str
    capability: str | None
    """Of the GPU here, such as "8.9"; None: those that the target builds for by default."""
    longest_prompt: int
    capacity: int
    """Tokens that a cache holds."""

    def options(self) -> list[str]:
        asked = ["--target", self.target, "--kv-cache", "fixed", "--logits", "last"]
        asked += ["--kv-capacity", str(self.capacity), "--max-seq-len", str(self.capacity)]
        asked += ["--max-batch-size", "1", "--max-input-len", str(self.longest_prompt)]
        if self.capability is not None and self.target == TENSORRT_RTX.name:
            asked += ["--compute-capability", self.capability]
        return asked


def target_here(*, gpu: bool) -> str | None:
    """Return the target to build with what is installed; TensorRT itself builds on a GPU alone."""
    if gpu and find_spec(TENSORRT.module):
        return TENSORRT.name
    return TENSORRT_RTX.name if find_spec(TENSORRT_RTX.module) else None


def room(prompts: Sequence[int], new_tokens: int) -> int:
    """Return how many tokens a cache must hold for the longest prompt and what follows it."""
    return -(-(max(prompts) + new_tokens) // ALIGNMENT) * ALIGNMENT


def build(name: str, model: Path, form: Form, out: Path, environment: Mapping[str, str]) -> Any:
    """Compile `model` into the folder `out`; return what its engine is and what it took.

    Raises BenchmarkError where it fails, and where the engine is not what the side is named for.
    """
    side = SIDES[name]
    castline = str(Path(sys.executable).with_name("castline"))
    sets = [part for change in side.changes for part in ("--set", change)]
    # Speed is compared here: a loss that the gate would refuse must not end the measurement.
    rest = [*form.options(), "-o", str(fresh(out)), "--no-gate", "--json", "--quiet"]
    cost = run_measured(
        [castline, "compile", str(model), "--recipe", side.recipe, *sets, *rest], environment
    )
    told = json.loads(cost.stdout)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["build"]
    plugins = manifest["plugins"] or {}
    layers = plugins.get("layers", {})
    require_named(name, layers, kept_low_bit=manifest["weights_kept_low_bit"])
    return {
        "recipe": side.recipe,
        "changes": side.changes,
        "engine_mb": round((out / manifest["engine"]).stat().st_size / MB, 1),
        "bits_per_weight": round(told["bits_per_weight"], 3),
        "compile_s": round(cost.wall_s, 1),
        "build_s": round(told["build_seconds"], 1),
        "build_peak_mb": round(told["build_peak_memory_bytes"] / MB, 1),
        "plugin_layers": layers,
        "plugin_library": plugins.get("sha256"),
        **{key: manifest[key] for key in _OF_MANIFEST},
        "notes": told["notes"],
    }


_OF_MANIFEST = (
    "edition",
    "version",
    "compute_capabilities",
    "weights_kept_low_bit",
    "kv_cache",
    "logits",
)


def require_named(name: str, layers: Mapping[str, int], *, kept_low_bit: bool | None) -> None:
    """Raise BenchmarkError for an engine that is not what the side `name` says.

    `layers` counts the plugins' layers in it, by op.
    """
    side = SIDES[name]
    if side.plugin is not None and side.plugin not in layers:
        raise BenchmarkError(f"{name}: no layer of {side.plugin} is in the engine, but {layers}")
    if side.plugin is None and layers:
        raise BenchmarkError(f"{name}: there are plugins in the engine: {layers}")
    if side.recipe != "float" and kept_low_bit is not True:
        raise BenchmarkError(f"{name}: the engine's weights are not stored in few bits")


def agreement(chosen: Sequence[int], other: Sequence[int]) -> float:
    """Return the part of places at which both chose the same token."""
    assert len(chosen) == len(other) > 0, "all sides follow the same tokens"
    return sum(a == b for a, b in zip(chosen, other, strict=True)) / len(chosen)


def refusal(
    chosen: Sequence[int],
    torch: Sequence[int] | None,
    graph: Sequence[int] | None,
) -> str | None:
    """Return why what a side chose is wrong, so that its speed does not count; None: it is right.

    `torch` and `graph` are what torch and the ONNX graph on the processor chose at the same places;
    None: that is not to be the same, or there is none.
    """
    for other, title in ((torch, "torch"), (graph, "its graph on ONNX Runtime")):
        if other is not None and agreement(chosen, other) < _SAME:
            return (
                f"chose {title}'s token at {100 * agreement(chosen, other):.0f} % of "
                f"{len(other)} places, expected {100 * _SAME:.0f} %"
            )
    return None
