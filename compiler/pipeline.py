"""Compile a checkpoint: export, quantize, lower, write, build, compare, publish."""

from __future__ import annotations

import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from castline.compiler.package.companions import (
    model_bytes,
    save_companions,
    save_config_and_tokenizer,
)
from castline.compiler.package.manifest import read_manifest, write_manifest
from castline.compiler.package.publish import publishing
from castline.compiler.passes.quantize_embedding import QuantizeEmbedding
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.thresholds import Thresholds
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.report.outcome import CheckOutcome, CompileOutcome, ExportOutcome
from castline.compiler.report.record import read_report, write_report
from castline.compiler.targets.catalogue import target_named
from castline.compiler.targets.runtime import onnxruntime_module
from castline.compiler.targets.target import Built
from castline.compiler.targets.write import write_model
from castline.errors import TargetError
from castline.exporters.checkpoint import Checkpoint, open_checkpoint
from castline.exporters.decoder import Decoder, decoder
from castline.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from castline.compiler.check.comparison import HeldOutText, Measured

DTYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}
AS_STORED = "checkpoint"
"""The dtype that most weights have in the checkpoint."""

_ORIGINAL_BYTES = 4  # the original runs in float32
_LIBRARIES = ("onnx", "onnx-ir", "onnxscript", "torch", "transformers")


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
    "bfloat16" or "checkpoint". Raises CheckpointError, UnsupportedArchitectureError or OutputError;
    nothing is written then.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    with publishing(output, overwrite=overwrite) as folder:
        with progress.stage("Opening the checkpoint"):
            checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
        float_type = _float_type(dtype, checkpoint)
        exported = decoder(checkpoint, float_type, progress)
        nodes = len(exported.model.graph)
        write_model(exported.model, folder, progress)
        notes = save_config_and_tokenizer(checkpoint, folder)
        outcome = ExportOutcome(
            output=output,
            source=source,
            architecture=exported.architecture,
            layers=exported.layers,
            dtype=float_type.numpy().name,
            nodes=nodes,
            bytes=model_bytes(folder),
            seconds=time.perf_counter() - started,
            notes=notes,
        )
        write_report(folder, outcome)
        write_manifest(folder, {"source": source, "target": "export", "dtype": outcome.dtype})
    return outcome


def compile_model(
    source: str,
    output: Path,
    *,
    recipe: Recipe,
    target: str,
    dtype: str | None = None,
    evaluation_text: str | None = None,
    gate: bool = True,
    overwrite: bool = False,
    threads: int | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> CompileOutcome:
    """Compile a checkpoint for a target by a recipe; publish it in `output` if it is near enough.

    `dtype` is that of what is not quantized (None: what suits the target); `evaluation_text` is a
    text file, folder or dataset to judge by (None: the shipped text). Raises GateFailedError when a
    figure misses the recipe's threshold, and the other CastlineErrors; nothing is written then.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    chosen = target_named(target)
    chosen.require(recipe)
    if gate:
        onnxruntime_module()  # runs the result of every target for the comparison
    with publishing(output, overwrite=overwrite) as folder:
        with progress.stage("Opening the checkpoint"):
            checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
        float_type = chosen.dtype if dtype is None else _float_type(dtype, checkpoint)
        chosen.require_dtype(float_type)
        text = _held_out_text(checkpoint, evaluation_text, progress) if gate else None
        exported = decoder(checkpoint, float_type, progress)
        context = int(checkpoint.config.max_position_embeddings)
        notes = _quantize(exported, recipe) + chosen.lower(exported.model, context)
        write_model(exported.model, folder, progress)
        notes += save_companions(checkpoint, folder, shares_cache=chosen.shares_cache)
        built = chosen.build(folder, context, progress)
        measured = _measure(checkpoint, folder, text, recipe, threads, progress)
        _require(measured)
        size = model_bytes(folder) if built.bytes is None else built.bytes
        outcome = CompileOutcome(
            output=output,
            source=source,
            recipe=recipe.name,
            target=target,
            language=measured.language if measured else None,
            tensors=measured.tensors if measured else None,
            verdicts=measured.verdicts if measured else (),
            original_bytes=exported.parameters * _ORIGINAL_BYTES,
            bytes=size,
            original_speed=measured.original_speed if measured else None,
            speed=measured.speed if measured and not built.not_executed else None,
            bits_per_weight=8 * size / exported.parameters,
            seconds=time.perf_counter() - started,
            notes=(*notes, *built.notes),
            not_executed=built.not_executed,
        )
        write_report(folder, outcome)
        with progress.stage("Writing the manifest"):
            write_manifest(folder, _facts(outcome, checkpoint, recipe, float_type, text, built))
    return outcome


def check_output(
    output: Path,
    *,
    against: str | None = None,
    evaluation_text: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CheckOutcome:
    """Compare a compiled folder with its original (None: the checkpoint it was compiled from)."""
    started = time.perf_counter()
    progress = progress or SilentProgress()
    manifest = read_manifest(output)
    source = against or str((read_report(output) or manifest).get("source"))
    with progress.stage("Opening the checkpoint"):
        checkpoint = open_checkpoint(source)
    text = _held_out_text(checkpoint, evaluation_text, progress)
    given = manifest.get("recipe")
    thresholds = Recipe.model_validate(given).thresholds if given else Thresholds()
    measured = _measured(checkpoint, output, text, thresholds, threads, progress)
    return CheckOutcome(
        output=output,
        against=source,
        language=measured.language,
        tensors=measured.tensors,
        verdicts=measured.verdicts,
        seconds=time.perf_counter() - started,
    )


def _float_type(dtype: str, checkpoint: Checkpoint) -> ir.DataType:
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype != AS_STORED:
        raise TargetError(f"dtype is {dtype!r}; expected {', '.join(DTYPES)} or {AS_STORED}.")
    stored = Counter[str]()
    for spec in checkpoint.tensors.values():
        stored[spec.dtype.name] += spec.size
    return DTYPES.get(stored.most_common(1)[0][0], ir.DataType.FLOAT)


def _quantize(exported: Decoder, recipe: Recipe) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    embedding, head = recipe.embedding_scheme, recipe.head_scheme
    if embedding is not None:
        # Where the head is tied to the table and quantized alike, both read the same codes.
        quantized = QuantizeEmbedding(embedding, with_head=head == embedding)(exported.model)
        notes += quantized.notes(embedding)
    for scheme, is_head in ((recipe.weights_scheme, False), (head, True)):
        if scheme is not None:
            notes += QuantizeWeights(scheme, head=is_head)(exported.model).notes(scheme)
    return notes


def _held_out_text(checkpoint: Checkpoint, source: str | None, progress: Progress) -> HeldOutText:
    from castline.compiler.check.comparison import held_out_text

    with progress.stage("Reading the evaluation text"):
        return held_out_text(checkpoint, source)


def _measure(
    checkpoint: Checkpoint,
    folder: Path,
    text: HeldOutText | None,
    recipe: Recipe,
    threads: int | None,
    progress: Progress,
) -> Measured | None:
    if text is None:
        return None
    return _measured(checkpoint, folder, text, recipe.thresholds, threads, progress)


def _measured(
    checkpoint: Checkpoint,
    folder: Path,
    text: HeldOutText,
    thresholds: Thresholds,
    threads: int | None,
    progress: Progress,
) -> Measured:
    from castline.compiler.check.comparison import measure

    return measure(checkpoint, folder, text, thresholds, threads=threads, progress=progress)


def _require(measured: Measured | None) -> None:
    if measured is not None:
        from castline.compiler.check.gate import require

        require(measured.verdicts)


def _facts(
    outcome: CompileOutcome,
    checkpoint: Checkpoint,
    recipe: Recipe,
    float_type: ir.DataType,
    text: HeldOutText | None,
    built: Built,
) -> dict[str, object]:
    """Return what the manifest says; nothing in it depends on the hour or the machine's speed."""
    compared = outcome.to_json()
    return {
        "source": outcome.source,
        "checkpoint_sha256": checkpoint.sha256(),
        "recipe": recipe.model_dump(),
        "target": outcome.target,
        "dtype": float_type.numpy().name,
        "build": built.facts,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "evaluation_text": None if text is None else {"source": text.source, "sha256": text.sha256},
        "figures": {key: compared[key] for key in ("language", "tensors", "verdicts")},
        "bits_per_weight": outcome.bits_per_weight,
        "not_executed": list(outcome.not_executed),
    }
