"""Compile a checkpoint: export, quantize, lower, write, build, compare, publish."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from castline.compiler.accounts import facts, hub_revision, origin, provenance, write_accounts
from castline.compiler.check.memory import available_memory, require_memory
from castline.compiler.check.provenance import local_path, opening_title
from castline.compiler.importing.imported import imported
from castline.compiler.importing.requantizing import SourceCodes, require_carrying
from castline.compiler.opening import float_type_of, text_to_judge_by, tried
from castline.compiler.package.companions import (
    model_bytes,
    save_companions,
    save_config_and_tokenizer,
)
from castline.compiler.package.manifest import write_manifest
from castline.compiler.package.publish import publishing
from castline.compiler.planning import hashed, plan_beside, plan_for
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.report.inspection import inspect_graph
from castline.compiler.report.outcome import CompileOutcome, ExportOutcome
from castline.compiler.report.page import write_page
from castline.compiler.report.quantization import plan_json
from castline.compiler.report.record import write_report
from castline.compiler.rewriting import quantize_graph
from castline.compiler.targets.catalogue import refuse_options, target_named
from castline.compiler.targets.context import note_context
from castline.compiler.targets.onnx import Onnx
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.runtime import onnxruntime_module
from castline.compiler.targets.target import Built, Target
from castline.compiler.targets.unpacked import loading_bytes
from castline.compiler.targets.write import MODEL, write_model
from castline.compiler.to_huggingface import HUGGINGFACE, compile_to_huggingface
from castline.errors import TargetError
from castline.exporters.checkpoint import Checkpoint, open_checkpoint
from castline.exporters.context import context_length
from castline.exporters.export import export
from castline.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from castline.compiler.check.evaluation_text import HeldOutPassages, HeldOutText
    from castline.compiler.check.measured import Measured, Speeds

_COMPILE_ELSEWHERE = (
    "Use --no-gate to compile here all the same, and run castline check where there is more memory."
)
_ORIGINAL_BYTES = 4  # the original runs in float32


def export_model(
    source: str,
    output: Path,
    *,
    dtype: str = "float32",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> ExportOutcome:
    """Write a checkpoint's float graph, with its tokenizer where it has one, into `output`.

    `source` is a Hugging Face folder, a GGUF file or a hub id; `dtype` is "float32", "float16",
    "bfloat16" or "checkpoint". It is the graph of the `onnx` target. Raises CheckpointError,
    UnsupportedArchitectureError or OutputError; nothing is written then.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    with publishing(output, overwrite=overwrite) as folder:
        with progress.stage(opening_title(source)):
            checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
        float_type = float_type_of(dtype, checkpoint)
        exported = tried(export(checkpoint, float_type, progress), progress)
        context = context_length(checkpoint.config)
        lowered = Onnx().lower(exported.model, context)
        nodes = len(exported.model.graph)
        note_context(exported.model, context)
        write_model(exported.model, folder, progress)
        notes = exported.notes + lowered.notes + save_config_and_tokenizer(checkpoint, folder)
        outcome = ExportOutcome(
            output=output,
            source=source,
            source_path=local_path(source),
            architecture=exported.architecture,
            layers=exported.layers,
            dtype=float_type.numpy().name,
            nodes=nodes,
            bytes=model_bytes(folder),
            seconds=time.perf_counter() - started,
            notes=notes,
        )
        write_report(folder, outcome)
        write_page(folder, outcome, kinds=inspect_graph(folder / MODEL).kinds)
        write_manifest(folder, origin(outcome) | {"target": "export", "dtype": outcome.dtype})
    return outcome


def compile_model(
    source: str,
    output: Path,
    *,
    recipe: Recipe,
    as_stored: Recipe | None = None,
    target: str,
    options: TargetOptions | None = None,
    plan: Path | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    evaluation_text: str | None = None,
    gate: bool = True,
    allow_lossy: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> CompileOutcome:
    """Compile a checkpoint for a target by a recipe; publish it in `output` if it is near enough.

    Where `as_stored` is given, it takes the recipe's place for a checkpoint that is quantized.
    `dtype` is that of what is not quantized (None: what suits the target); `evaluation_text` is a
    text file, folder or dataset to judge by (None: the shipped text). `plan` is a plan's folder;
    without one, a recipe that takes numbers from a text has its plan made, on `device`. The plan is
    published inside the output. `options` are what is chosen of the target. `allow_lossy` lets
    codes of a quantized checkpoint change. Raises GateFailedError when a figure misses the recipe's
    threshold, and the other CastlineErrors; nothing is written then.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    if target == HUGGINGFACE:
        refuse_options(target, options or TargetOptions(), engine=False)
        return compile_to_huggingface(
            source,
            output,
            recipe=recipe,
            as_stored=as_stored,
            plan=plan,
            device=device,
            dtype=dtype,
            evaluation_text=evaluation_text,
            gate=gate,
            allow_lossy=allow_lossy,
            overwrite=overwrite,
            threads=threads,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    chosen = target_named(target, options)
    chosen.require(recipe)
    if gate:
        onnxruntime_module()  # runs the result of every target for the comparison
    with publishing(output, overwrite=overwrite) as folder:
        with progress.stage(opening_title(source)):
            checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
        recipe = as_stored if as_stored is not None and checkpoint.quantized else recipe
        require_carrying(checkpoint, recipe, allow_lossy=allow_lossy)
        float_type = chosen.dtype if dtype is None else float_type_of(dtype, checkpoint)
        chosen.require_dtype(float_type)
        if gate:
            _require_comparable(float_type)
        text = text_to_judge_by(checkpoint, evaluation_text, progress) if gate else None
        exported = tried(export(checkpoint, float_type, progress), progress)
        context = context_length(checkpoint.config)
        chosen.require_graph(exported.model, recipe, context)
        sha256 = hashed(checkpoint, progress)
        quantization = plan_for(
            checkpoint,
            exported,
            output,
            recipe=recipe,
            given=plan,
            judged_by=text,
            sha256=sha256,
            device=device,
            progress=progress,
        )
        stored = imported(exported.checkpoint, progress) if recipe.as_stored else None
        notes = exported.notes + quantize_graph(exported.model, recipe, quantization, stored)
        lowered = chosen.lower(exported.model, context)
        notes += lowered.notes
        codes = SourceCodes(exported.checkpoint, recipe, stored, allow_lossy)
        carried = codes.judge(exported.model, float_type, progress)
        if gate:
            require_memory(
                checkpoint, loading_bytes(exported.model), available_memory(), _COMPILE_ELSEWHERE
            )
        note_context(exported.model, context)
        write_model(exported.model, folder, progress)
        notes += save_companions(
            checkpoint,
            folder,
            exported.interface,
            shares_cache=lowered.shares_cache,
            provider=chosen.options.provider,
        )
        built = chosen.build(folder, context, progress)
        measured, speeds = _proved(checkpoint, folder, text, recipe, built, threads, progress)
        notes += _finished(chosen, folder, text, threads)
        size = model_bytes(folder) if built.bytes is None else built.bytes
        outcome = CompileOutcome(
            output=output,
            source=source,
            source_path=local_path(source),
            recipe=recipe.name,
            target=target,
            language=measured.language if measured else None,
            encoding=measured.encoding if measured else None,
            tensors=measured.tensors if measured else None,
            verdicts=measured.verdicts if measured else (),
            original_bytes=exported.parameters * _ORIGINAL_BYTES,
            bytes=size,
            original_speed=speeds.original if speeds else None,
            speed=speeds.result if speeds else None,
            bits_per_weight=8 * size / exported.parameters,
            seconds=time.perf_counter() - started,
            notes=(*notes, *carried.notes, *built.notes, *(measured.notes if measured else ())),
            not_executed=built.not_executed,
            build_seconds=built.seconds,
            build_peak_memory_bytes=built.peak_memory_bytes,
            quantization=None if quantization is None else plan_json(quantization),
            stored_codes=carried.to_json() if carried.codes else None,
        )
        write_accounts(
            folder,
            outcome,
            facts(
                outcome,
                sha256,
                recipe,
                float_type,
                text,
                built.facts,
                revision=hub_revision(checkpoint),
                plan=quantization,
            ),
            provenance(sha256, text),
            inspect_graph(folder / MODEL).kinds,
            None if quantization is None else (plan or plan_beside(output), quantization),
            progress,
        )
    if plan is None and quantization is not None:
        shutil.rmtree(plan_beside(output))
    return outcome


def _require_comparable(float_type: ir.DataType) -> None:
    if float_type == ir.DataType.BFLOAT16:
        raise TargetError(
            "A bfloat16 result cannot be compared with the original: that is done on ONNX Runtime, "
            "which has no bfloat16 kernels on CPUs. Use --dtype float32 or float16, or --no-gate "
            "to publish it unproved."
        )


def _finished(
    chosen: Target,
    folder: Path,
    text: HeldOutText | HeldOutPassages | None,
    threads: int | None,
) -> tuple[str, ...]:
    """Let the target finish the model; hold what it changed to the text it was compared on."""
    notes = chosen.finish(folder)
    if not notes or text is None:
        return notes
    from castline.compiler.check.evaluation_text import HeldOutText
    from castline.compiler.check.last_logits import require_last_logits

    assert isinstance(text, HeldOutText), "require_graph asked for logits, which decoders have"
    require_last_logits(folder, text.windows, threads)
    return notes


def _proved(
    checkpoint: Checkpoint,
    folder: Path,
    text: HeldOutText | HeldOutPassages | None,
    recipe: Recipe,
    built: Built,
    threads: int | None,
    progress: Progress,
) -> tuple[Measured | None, Speeds | None]:
    """Return the figures, or raise GateFailedError; and the speeds, if what was built can run."""
    if text is None:
        return None, None
    from castline.compiler.check.comparison import opened_pair
    from castline.compiler.check.gate import require

    with opened_pair(checkpoint, folder, text, threads=threads, progress=progress) as pair:
        measured = pair.measure(recipe.gate, progress)
        require(measured.verdicts)
        return measured, None if built.not_executed else pair.timed(progress)
