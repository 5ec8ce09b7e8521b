"""The options of targets and engines, which compile and build share."""

# ruff: noqa: PLC0415 - the compiler imports libraries that --help does not need.

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from castline.errors import TargetError

if TYPE_CHECKING:
    from castline.compiler.targets.tensorrt.engine_options import EngineOptions

_PANEL = "Engines (targets tensorrt and tensorrt-rtx)"
_POOL = re.compile(r"workspace:(?P<size>\d+(\.\d+)?)(?P<unit>[BKMG]?)", re.IGNORECASE)
_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "": 2**20}

Plugins = Annotated[
    Literal["auto", "never"],
    typer.Option(
        rich_help_panel=_PANEL,
        help="auto has Castline's plugins compute what TensorRT lacks (zero-points, activations "
        "quantized at run time), from the library that castline plugins build makes; never has "
        "TensorRT's own operators add 4-bit zero-points.",
    ),
]
KvCache = Annotated[
    Literal["growing", "fixed"],
    typer.Option(
        help="growing: each run returns a longer cache. fixed: new rows are written into buffers "
        "of one size, in place.",
    ),
]
KvCapacity = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens that a fixed cache holds. Default: the context length."),
]
Logits = Annotated[
    Literal["all", "last"],
    typer.Option(help="Return logits of all tokens, or of the last one of each row alone."),
]
Provider = Annotated[
    Literal["cpu", "cuda", "tensorrt-rtx"],
    typer.Option(help="Of onnxruntime: the execution provider that the folder is made for."),
]
MaxBatchSize = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=_PANEL, help="Most rows in a run. Default: 4.")
]
MaxInputLen = Annotated[
    int | None,
    typer.Option(min=1, rich_help_panel=_PANEL, help="Most new tokens in a run. Default: 512."),
]
MaxSeqLen = Annotated[
    int | None,
    typer.Option(
        min=1, rich_help_panel=_PANEL, help="Most tokens of prompt and answer. Default: 1025."
    ),
]
MinShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--min-shapes",
        "--minShapes",
        metavar="NAME:1x1,...",
        rich_help_panel=_PANEL,
        help="Smallest shapes of the inputs, as trtexec takes them. Once for each profile.",
    ),
]
OptShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--opt-shapes",
        "--optShapes",
        metavar="NAME:1x128,...",
        rich_help_panel=_PANEL,
        help="Shapes to tune for. Inputs that are not named follow from the others.",
    ),
]
MaxShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--max-shapes",
        "--maxShapes",
        metavar="NAME:4x512,...",
        rich_help_panel=_PANEL,
        help="Largest shapes. Without shapes there is a profile for prefill and one for decode.",
    ),
]
ProfileNumbers = Annotated[
    list[int] | None,
    typer.Option(
        "--profile",
        metavar="N",
        rich_help_panel=_PANEL,
        help="Number of the profile that the shapes after it belong to, from 0 and in order.",
    ),
]
ComputeCapabilities = Annotated[
    list[str] | None,
    typer.Option(
        "--compute-capability",
        "--computeCapabilities",
        metavar="8.9",
        rich_help_panel=_PANEL,
        help="Of tensorrt-rtx: GPUs to build for, repeated or with commas. Default: 8.0 and later.",
    ),
]
TimingCache = Annotated[
    Path | None,
    typer.Option(
        "--timing-cache",
        "--timingCacheFile",
        metavar="FILE",
        rich_help_panel=_PANEL,
        help="Of tensorrt: kernel timings, read before a build and written after it.",
    ),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible",
        "--versionCompatible",
        rich_help_panel=_PANEL,
        help="Of tensorrt: later versions load the engine, too.",
    ),
]
HardwareCompatibility = Annotated[
    Literal["none", "ampere+", "same-compute-capability"],
    typer.Option(
        "--hardware-compatibility",
        "--hardwareCompatibilityLevel",
        rich_help_panel=_PANEL,
        help="Of tensorrt: which other GPUs run the engine.",
    ),
]
StripWeights = Annotated[
    bool,
    typer.Option(
        "--strip-weights",
        "--stripWeights",
        rich_help_panel=_PANEL,
        help="Leave the weights out of the engine; castline build OUT --refit puts them in.",
    ),
]
MemPoolSize = Annotated[
    str | None,
    typer.Option(
        "--mem-pool-size",
        "--memPoolSize",
        metavar="workspace:4G",
        rich_help_panel=_PANEL,
        help="Most scratch memory of a kernel, in MiB or with B, K, M or G. Default: all there is.",
    ),
]


def engine_options(
    *,
    max_batch_size: int | None,
    max_input_len: int | None,
    max_seq_len: int | None,
    min_shapes: Sequence[str] | None,
    opt_shapes: Sequence[str] | None,
    max_shapes: Sequence[str] | None,
    profile: Sequence[int] | None,
    compute_capability: Sequence[str] | None,
    timing_cache: Path | None,
    version_compatible: bool,
    hardware_compatibility: Literal["none", "ampere+", "same-compute-capability"],
    strip_weights: bool,
    mem_pool_size: str | None,
) -> EngineOptions:
    """Return what was chosen of an engine on the command line.

    Raises TargetError where a value cannot be read, or values do not fit each other.
    """
    from castline.compiler.targets.tensorrt.engine_options import EngineOptions
    from castline.compiler.targets.tensorrt.shape_flags import shape_sets
    from castline.compiler.targets.tensorrt.sizes import Sizes

    shapes = shape_sets(min_shapes or (), opt_shapes or (), max_shapes or ())
    if profile and not shapes:
        raise TargetError("--profile numbers the shapes behind it, and none were given.")
    if profile and list(profile) != list(range(len(shapes))):
        raise TargetError(
            f"--profile {', '.join(map(str, profile))}: expected 0 to {len(shapes) - 1} in order, "
            "each with the shapes of its inputs behind it."
        )
    listed = ",".join(compute_capability or ()).split(",") if compute_capability else []
    return EngineOptions(
        sizes=Sizes(max_batch_size, max_input_len, max_seq_len),
        shapes=shapes,
        compute_capabilities=tuple(dict.fromkeys(one.strip() for one in listed)),
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        strip_weights=strip_weights,
        workspace=_bytes(mem_pool_size),
    )


def _bytes(pool: str | None) -> int | None:
    if pool is None:
        return None
    found = _POOL.fullmatch(pool)
    if found is None:
        raise TargetError(
            f"--memPoolSize {pool}: expected workspace:SIZE, such as workspace:4096 (MiB) or "
            "workspace:4G; other pools cannot be chosen."
        )
    return int(float(found["size"]) * _UNITS[found["unit"].upper()])
