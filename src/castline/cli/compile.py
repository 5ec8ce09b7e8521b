"""castline compile: from a checkpoint to a quantized, checked folder that runs."""

# ruff: noqa: PLC0415 - the compiler imports torch, which takes seconds that --help does not have.

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from castline.cli.export import NOTHING_WRITTEN
from castline.cli.failures import Failures
from castline.cli.options import (
    AsJson,
    CalibrationText,
    Debug,
    Device,
    Dtype,
    EvaluationText,
    Output,
    Overrides,
    Overwrite,
    Quiet,
    Source,
    Threads,
    TrustRemoteCode,
)
from castline.cli.packages_beside import Packages, packed_beside, require_packable
from castline.cli.quantize import calibration_overrides
from castline.cli.shown_progress import shown_progress
from castline.cli.target_options import (
    ComputeCapabilities,
    HardwareCompatibility,
    KvCache,
    KvCapacity,
    Logits,
    MaxBatchSize,
    MaxInputLen,
    MaxSeqLen,
    MaxShapes,
    MemPoolSize,
    MinShapes,
    OptShapes,
    Plugins,
    ProfileNumbers,
    Provider,
    StripWeights,
    TimingCache,
    VersionCompatible,
    engine_options,
)

Target = Literal["onnx", "onnxruntime", "tensorrt-rtx", "tensorrt", "huggingface"]
DEFAULT_RECIPE = "w4a16-rtn"
AS_STORED = "as-stored"
"""The default for a checkpoint that is quantized already."""
PLAN_STAYS = (
    "interrupted: nothing was published. The blocks that were searched stay in OUT.plan, and the "
    "same command goes on from there."
)


def compile_checkpoint(
    source: Source,
    *,
    output: Output,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            metavar="NAME|FILE",
            help="How to quantize: a preset (castline recipes lists them) or a YAML file. "
            f"Default: {DEFAULT_RECIPE}, or {AS_STORED} if it is quantized, or the plan's.",
        ),
    ] = None,
    target: Annotated[
        Target,
        typer.Option(
            "--target",
            "-t",
            help="onnx: standard operators, runs anywhere. onnxruntime: its fast kernels, and "
            "onnxruntime-genai. tensorrt-rtx: an engine for NVIDIA GPUs, built without one. "
            "tensorrt: an engine for the GPU of this machine. "
            "huggingface: a checkpoint for vLLM and transformers, as compressed-tensors has it.",
        ),
    ] = "onnxruntime",
    plugins: Plugins = "auto",
    overrides: Overrides = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="PLAN",
            help="Use this plan of castline quantize and its recipe, and search nothing.",
        ),
    ] = None,
    calibration_text: CalibrationText = None,
    device: Device = "cpu",
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="The dtype of what is not quantized. Default: what suits the target."),
    ] = None,
    evaluation_text: EvaluationText = None,
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Publish without comparing with the original.")
    ] = False,
    allow_lossy: Annotated[
        bool,
        typer.Option(
            "--allow-lossy",
            help="Compile even where codes of a quantized checkpoint change, and say what it cost.",
        ),
    ] = False,
    kv_cache: KvCache = "growing",
    kv_capacity: KvCapacity = None,
    logits: Logits = "all",
    provider: Provider = "cpu",
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
    package: Packages = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Quantize a checkpoint, compile it for a target, and check it against the original.

    Of a checkpoint that is quantized already (AWQ, GPTQ, compressed-tensors, ModelOpt, GGUF) codes,
    scales and zero-points are carried over unchanged, unless another recipe is given; that takes
    --allow-lossy.

    A recipe that takes scales or ranges from a text is searched first, block by block; castline
    quantize does that alone, and --plan uses what it found.

    The result is compared with the original on held-out text: perplexity, KL divergence and how
    often both think the same token likeliest; for an encoder, the cosines of its vectors and
    whether the same texts are near each other. If it is further away than the recipe allows, the
    command ends with exit code 3 and writes nothing. --no-gate publishes without comparing.

    **Example:** castline compile HuggingFaceTB/SmolLM2-135M-Instruct --recipe w4a16-rtn
    --target onnxruntime -o build/smollm2, then castline generate build/smollm2 "Why is ice light?"
    """
    if no_gate:
        _refuse_without_gate({"--evaluation-text": evaluation_text, "--threads": threads})
    with Failures(debug=debug, interrupted=NOTHING_WRITTEN):
        require_packable(output, target, package or (), overwrite=overwrite)
        from castline.compiler.recipes.load import load_recipe
        from castline.compiler.targets.options import TargetOptions

        options = TargetOptions(
            plugins=plugins,
            engine=engine_options(
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
            ),
            kv_cache=kv_cache,
            kv_capacity=kv_capacity,
            logits=logits,
            provider=provider,
        )
        changes = [*(overrides or ()), *calibration_overrides({"text": calibration_text})]
        as_stored = None
        if plan is None or recipe is not None:
            loaded = load_recipe(recipe or DEFAULT_RECIPE, changes)
            if recipe is None and all(change.startswith("gate") for change in changes):
                as_stored = load_recipe(AS_STORED, changes)
        else:
            from castline.compiler.planning import planned_recipe

            loaded = planned_recipe(plan, changes)
    searches = loaded.needs_calibration and plan is None
    with Failures(debug=debug, interrupted=PLAN_STAYS if searches else NOTHING_WRITTEN):
        from castline.compiler.pipeline import compile_model

        with shown_progress(quiet=quiet) as progress:
            outcome = compile_model(
                source,
                output,
                recipe=loaded,
                as_stored=as_stored,
                target=target,
                options=options,
                plan=plan,
                device=device,
                dtype=dtype,
                evaluation_text=evaluation_text,
                gate=not no_gate,
                allow_lossy=allow_lossy,
                overwrite=overwrite,
                threads=threads,
                trust_remote_code=trust_remote_code,
                progress=progress,
            )
        packed = packed_beside(output, package or (), overwrite=overwrite, debug=debug)
        if as_json:
            typer.echo(json.dumps(outcome.to_json(), indent=2))
            return
        from castline.cli.tables import show_compiled

        show_compiled(outcome)
        for place in packed:
            typer.echo(f"packed: {place}")


def _refuse_without_gate(options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise typer.BadParameter(
            f"{' and '.join(given)} would have no effect: with --no-gate no model is run. Leave "
            "out one or the other."
        )
