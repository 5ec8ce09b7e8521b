"""Give a decoder the forms of cache and logits that a user asks for, or say why not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from castline.compiler.passes.authorship import made_by
from castline.compiler.passes.fixed_cache import FixedCache
from castline.compiler.targets.context import note_capacity
from castline.compiler.targets.last_logits import keep_last_logits
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.write import MODEL
from castline.errors import TargetError
from castline.exporters.names import LOGITS, PAST_PREFIX

_NOT_GENAI = (
    "cache: of a fixed capacity, written at the input write_indices, which onnxruntime-genai does "
    "not give: castline generate runs it, and --target onnxruntime makes a folder for the other"
)


def require_forms(model: ir.Model, options: TargetOptions) -> None:
    """Raise TargetError where a float graph cannot have the forms that `options` ask for.

    It is asked before anything is searched.
    """
    if options.kv_cache == "fixed":
        if not any(str(value.name).startswith(PAST_PREFIX) for value in model.graph.inputs):
            raise TargetError("This model has no cache that could be fixed. Leave --kv-cache out.")
        _refuse(FixedCache().declined(model))
    if options.logits == "last" and not any(v.name == LOGITS for v in model.graph.outputs):
        raise TargetError("This model has no logits to cut to the last. Leave --logits out.")


def require_capacity(options: TargetOptions, context_length: int) -> None:
    """Raise TargetError for a fixed cache of more tokens than a model reads."""
    if options.kv_capacity is not None and options.kv_capacity > context_length:
        raise TargetError(
            f"--kv-capacity {options.kv_capacity}: the model reads {context_length} tokens at most."
        )


def fix_caches(model: ir.Model, options: TargetOptions, context_length: int) -> tuple[str, ...]:
    """Rewrite a lowered `model` in place where `options` ask for a fixed cache; return notes.

    Raises TargetError that names all that cannot be turned.
    """
    if options.kv_cache == "growing":
        return ()
    with made_by(model, FixedCache.__name__):
        _refuse(FixedCache()(model))
    note_capacity(model, options.capacity(context_length))
    return (_NOT_GENAI,)


def cut_logits(folder: Path, options: TargetOptions) -> tuple[str, ...]:
    """Cut the logits of the written model to those of the last token if asked for; return notes.

    Raises TargetError where nothing before the logits computes each token by itself.
    """
    if options.logits == "all":
        return ()
    keep_last_logits(folder / MODEL)
    return (
        "logits: of the last token of each row alone, so rows of different lengths are padded on "
        "the left; castline check compares those of all tokens",
    )


def form_facts(options: TargetOptions, context_length: int) -> dict[str, object]:
    """Return what the manifest says of the forms of a graph that are not the usual ones."""
    facts: dict[str, object] = {}
    if options.kv_cache == "fixed":
        facts |= {"kv_cache": "fixed", "kv_capacity": options.capacity(context_length)}
    return facts if options.logits == "all" else facts | {"logits": options.logits}


def _refuse(declined: Mapping[str, str]) -> None:
    if declined:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in declined.items())
        raise TargetError(
            f"The cache of this model cannot have a fixed capacity:\n{lines}\n"
            "Use --kv-cache growing."
        )
