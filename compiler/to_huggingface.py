"""Compile a checkpoint to a Hugging Face folder, which transformers and vLLM load.

The graph only tells where scales fold and which linears are quantized. What is written is the
checkpoint itself, with scales folded and with codes for weights.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from castline.compiler.accounts import facts, hub_revision, provenance, write_accounts
from castline.compiler.check.memory import available_memory, require_memory
from castline.compiler.check.provenance import local_path, opening_title
from castline.compiler.huggingface.config import complete_config
from castline.compiler.huggingface.handed_back import HandedBack, schemes_of
from castline.compiler.huggingface.refusals import (
    require_asked,
    require_codes_alone,
    require_no_experts,
    require_own_code,
    require_plan,
    require_recipe,
)
from castline.compiler.huggingface.settings import quantization_config
from castline.compiler.huggingface.weight_files import write_weights
from castline.compiler.importing.carried import Carried, searched_anew
from castline.compiler.importing.imported import Imported, imported
from castline.compiler.importing.requantizing import require_carrying
from castline.compiler.opening import AS_STORED, float_type_of, text_to_judge_by, tried
from castline.compiler.package.companions import save_config_and_tokenizer
from castline.compiler.package.publish import publishing
from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.planning import hashed, plan_beside, plan_for
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.report.outcome import CompileOutcome
from castline.compiler.report.quantization import plan_json
from castline.compiler.rewriting import planned_folds
from castline.compiler.searchable import stays_float
from castline.exporters.checkpoint import Checkpoint, open_checkpoint
from castline.exporters.export import Exported, export
from castline.exporters.promise import Scaling
from castline.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from castline.compiler.check.evaluation_text import HeldOutPassages, HeldOutText
    from castline.compiler.check.measured import Measured

HUGGINGFACE = "huggingface"
"""The name of the target."""
_FLOAT32 = 4  # bytes a weight, as both models run when they are compared
_COMPILE_ELSEWHERE = "Use --no-gate to compile here all the same."


def compile_to_huggingface(
    source: str,
    output: Path,
    *,
    recipe: Recipe,
    as_stored: Recipe | None = None,
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
    """Write a checkpoint in the compressed-tensors format; publish it if it is near enough.

    Of the arguments `dtype` alone is other than compile_model has it: None leaves every tensor that
    is not quantized in the type it is stored in. The result is compared as it reads back, in torch.
    Raises TargetError for what the format has no form for, and as compile_model; nothing is written
    then.
    """
    started = time.perf_counter()
    progress = progress or SilentProgress()
    require_recipe(recipe)
    with publishing(output, overwrite=overwrite) as folder:
        with progress.stage(opening_title(source)):
            checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
        recipe = as_stored if as_stored is not None and checkpoint.quantized else recipe
        require_own_code(checkpoint)
        require_carrying(checkpoint, recipe, allow_lossy=allow_lossy)
        require_asked(checkpoint, recipe, allow_lossy=allow_lossy)
        float_type = float_type_of(dtype or AS_STORED, checkpoint)
        text = text_to_judge_by(checkpoint, evaluation_text, progress) if gate else None
        exported = tried(export(checkpoint, float_type, progress), progress)
        if gate:
            result = exported.parameters * _FLOAT32
            require_memory(checkpoint, result, available_memory(), _COMPILE_ELSEWHERE)
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
        recast = dtype not in (None, AS_STORED)
        stored = imported(exported.checkpoint, progress) if recipe.as_stored else None
        handed = _handed_back(exported, recipe, quantization, stored, float_type, recast=recast)
        size = write_weights(handed.units(), folder, progress)
        notes = exported.notes + handed.notes() + save_config_and_tokenizer(checkpoint, folder)
        carried = _carried_codes(exported.checkpoint, handed)
        _complete(folder, exported.architecture, handed)
        measured = _proved(checkpoint, folder, text, recipe, threads, progress)
        outcome = CompileOutcome(
            output=output,
            source=source,
            source_path=local_path(source),
            recipe=recipe.name,
            target=HUGGINGFACE,
            language=measured.language if measured else None,
            encoding=measured.encoding if measured else None,
            tensors=measured.tensors if measured else None,
            verdicts=measured.verdicts if measured else (),
            original_bytes=exported.parameters * _FLOAT32,
            bytes=size,
            original_speed=None,
            speed=None,
            bits_per_weight=8 * size / exported.parameters,
            seconds=time.perf_counter() - started,
            notes=(*notes, *carried.notes, *(measured.notes if measured else ())),
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
                {},
                revision=hub_revision(checkpoint),
                plan=quantization,
            ),
            provenance(sha256, text),
            (),
            None if quantization is None else (plan or plan_beside(output), quantization),
            progress,
        )
    if plan is None and quantization is not None:
        shutil.rmtree(plan_beside(output))
    return outcome


def _handed_back(
    exported: Exported,
    recipe: Recipe,
    plan: QuantPlan | None,
    stored: Imported | None,
    float_type: ir.DataType,
    *,
    recast: bool,
) -> HandedBack:
    """Return what is to be written. Raises TargetError for what the format has no form for."""
    from castline.compiler.huggingface.modules import LinearModules

    model, checkpoint = exported.model, exported.checkpoint
    if stored is not None:
        require_codes_alone(stored)
        require_no_experts(model, checkpoint.tensors.keys() - stored.given.keys())
        given = stored.given
        schemes = schemes_of(model, None, {}, given)
    else:
        kept = stays_float(model, recipe)
        if recipe.weights_scheme is not None:
            require_no_experts(model, kept)
        given = {} if plan is None else plan.codes
        schemes = schemes_of(model, recipe.weights_scheme, kept, given)
    modules = LinearModules.of(checkpoint, decodes=exported.interface.cached)
    modules.require(schemes)
    return HandedBack(
        checkpoint,
        schemes,
        given,
        {} if plan is None else _scalings(exported, plan),
        float_type,
        recast=recast,
        exact=stored is not None,
        derived=modules.are_derived(schemes),
        ignored=modules.others(schemes),
    )


def _scalings(exported: Exported, plan: QuantPlan) -> dict[str, tuple[Scaling, ...]]:
    """Return {parameter: what the plan folds into it}."""
    require_plan(plan)
    scalings: dict[str, tuple[Scaling, ...]] = {}
    for site, scale in planned_folds(exported.model, plan):
        for edit in site.edits:
            rank = len(exported.checkpoint.tensors[edit.parameter].shape)
            before = scalings.get(edit.parameter, ())
            scalings[edit.parameter] = (*before, edit.scaling(scale, rank))
    return scalings


def _carried_codes(checkpoint: Checkpoint, handed: HandedBack) -> Carried:
    """Return what became of the codes of a quantized checkpoint, if it is one."""
    if not checkpoint.quantized:
        return Carried()
    if not handed.exact:
        return searched_anew(checkpoint)
    return Carried(sum(checkpoint.tensors[name].size for name in handed.schemes))


def _complete(folder: Path, architecture: str, handed: HandedBack) -> None:
    """Write into config.json what transformers and vLLM ask of a quantized model."""
    quantization = None
    if handed.packed:
        quantization = quantization_config(
            handed.packed.values(), handed.ignored, dequantize=handed.dequantized
        )
    complete_config(
        folder,
        architecture=architecture,
        dtype=handed.float_type.numpy().name,
        quantization=quantization,
    )


def _proved(
    checkpoint: Checkpoint,
    folder: Path,
    text: HeldOutText | HeldOutPassages | None,
    recipe: Recipe,
    threads: int | None,
    progress: Progress,
) -> Measured | None:
    """Return the figures of what was written, or raise GateFailedError."""
    if text is None:
        return None
    from castline.compiler.check.checkpoint_pair import opened_checkpoints
    from castline.compiler.check.gate import require

    with opened_checkpoints(checkpoint, folder, text, threads=threads, progress=progress) as pair:
        measured = pair.measure(recipe.gate, progress)
    require(measured.verdicts)
    return measured
