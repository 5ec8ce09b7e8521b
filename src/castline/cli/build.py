"""castline build: make the engine of a compiled folder again."""

# ruff: noqa: PLC0415 - the compiler imports libraries that --help does not need.

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from castline.cli.export import NOTHING_WRITTEN
from castline.cli.failures import Failures
from castline.cli.options import AsJson, Debug, Overwrite, Quiet
from castline.cli.shown_progress import shown_progress
from castline.cli.target_options import (
    ComputeCapabilities,
    HardwareCompatibility,
    MaxBatchSize,
    MaxInputLen,
    MaxSeqLen,
    MaxShapes,
    MemPoolSize,
    MinShapes,
    OptShapes,
    ProfileNumbers,
    StripWeights,
    TimingCache,
    VersionCompatible,
    engine_options,
)


def build(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder with an engine.", show_default=False)
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT2", help="A new folder. Default: OUT is replaced."
        ),
    ] = None,
    target: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option("--target", "-t", help="Which TensorRT builds. Default: the same as before."),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit", help="Build nothing: put the weights into an engine that was stripped."
        ),
    ] = False,
    max_batch_size: MaxBatchSize = None,
    max_input_len: MaxInputLen = None,
    max_seq_len: MaxSeqLen = None,
    min_shapes: MinShapes = None,
    opt_shapes: OptShapes = None,
    max_shapes: MaxShapes = None,
    profile: ProfileNumbers = None,
    compute_capability: ComputeCapabilities = None,
    timing_cache: TimingCache = None,
    version_compatible: VersionCompatible = False,
    hardware_compatibility: HardwareCompatibility = "none",
    strip_weights: StripWeights = False,
    mem_pool_size: MemPoolSize = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Build the engine of a folder again, with other options or on another machine.

    The model.onnx in it stays as it is, and no checkpoint is needed: compile for tensorrt-rtx
    anywhere, take the folder to the machine with the GPU, and build there for what it has. Options
    that are not given are the defaults, not those of before.

    **Example:** castline build build/smollm2 -t tensorrt --max-batch-size 8 -o build/smollm2-8
    """
    with Failures(debug=debug, interrupted=NOTHING_WRITTEN):
        from castline.compiler.rebuilding import rebuild
        from castline.compiler.rebuilding import refit as refit_folder
        from castline.compiler.targets.tensorrt.engine_options import EngineOptions
        from castline.errors import TargetError

        chosen = engine_options(
            max_batch_size=max_batch_size,
            max_input_len=max_input_len,
            max_seq_len=max_seq_len,
            min_shapes=min_shapes,
            opt_shapes=opt_shapes,
            max_shapes=max_shapes,
            profile=profile,
            compute_capability=compute_capability,
            timing_cache=timing_cache,
            version_compatible=version_compatible,
            hardware_compatibility=hardware_compatibility,
            strip_weights=strip_weights,
            mem_pool_size=mem_pool_size,
        )
        if refit and (target is not None or chosen != EngineOptions()):
            raise TargetError("--refit builds nothing, so it takes no option of a build.")
        with shown_progress(quiet=quiet) as progress:
            if refit:
                outcome = refit_folder(folder, output, overwrite=overwrite, progress=progress)
            else:
                outcome = rebuild(
                    folder,
                    output,
                    target=target,
                    engine=chosen,
                    overwrite=overwrite,
                    progress=progress,
                )
        if as_json:
            typer.echo(json.dumps(outcome.to_json(), indent=2))
            return
        from castline.cli.tables import show_built

        show_built(outcome)
