"""Export a checkpoint: trace a layer of each kind, stamp the stack, promise the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from castline.exporters.architectures import PROVEN
from castline.exporters.bind import bind
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.interface import Interface
from castline.exporters.readers.tensors import named
from castline.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from castline.exporters.conversion import Conversion
    from castline.exporters.skeleton import Skeleton
    from castline.exporters.template import Template

_LISTED = 6  # names of tensors that a note spells out before it only counts


@dataclass(frozen=True)
class CutModel:
    """A few layers of a model and their graph, to try an architecture that no test covers."""

    model: PreTrainedModel
    """In torch; its weights are untouched memory, for whoever tries it to fill."""

    graph: ir.Model
    """The same layers, with the weights as inputs by their names in `model`."""

    interface: Interface


@dataclass(frozen=True)
class Exported:
    """A model's float graph whose weights are read when it is written."""

    model: ir.Model
    interface: Interface
    architecture: str
    """Class name in Hugging Face's transformers, such as "LlamaForCausalLM"."""
    layers: int
    parameters: int
    """Number of weights, tied ones counted once."""
    checkpoint: Checkpoint
    """The checkpoint under the names of the graph's weights."""
    untried: CutModel | None = None
    """The cut model of an architecture outside PROVEN; None for those inside."""
    notes: tuple[str, ...] = ()
    """For the outcome, a sentence each."""


def export(
    checkpoint: Checkpoint,
    dtype: ir.DataType = ir.DataType.FLOAT,
    progress: Progress | None = None,
) -> Exported:
    """Return the float graph of a checkpoint; tracing does not grow with the layer count.

    `dtype` is FLOAT, FLOAT16 or BFLOAT16. Raises UnsupportedArchitectureError for an architecture
    that cannot be exported, CheckpointError when the tensors do not fit the configuration.
    """
    progress = progress or SilentProgress()
    with progress.stage("Importing torch"):
        # Importing torch and transformers takes seconds; a wrong argument should not wait for them.
        from castline.exporters.conversion import converted
        from castline.exporters.retype import retype
        from castline.exporters.skeleton import skeleton
        from castline.exporters.stamp import stamp
        from castline.exporters.template import template
        from castline.exporters.trace import trace
    with progress.stage("Tracing one layer of each kind"):
        cut = skeleton(checkpoint.config)
        conversion = converted(checkpoint, cut.model, cut.named_shapes)
        if _is_untied(cut.aliases, conversion.checkpoint):
            cut = skeleton(_without_ties(checkpoint.config))
        parts = template(trace(cut), cut.stack, len(cut.kept))
    with progress.stage(f"Stamping {len(cut.kinds)} layers"):
        model = stamp(parts, cut)
        retype(model, dtype)
        bind(model, cut, conversion.checkpoint)
    return Exported(
        model=model,
        interface=cut.interface,
        architecture=type(cut.model).__name__,
        layers=len(cut.kinds),
        parameters=cut.parameters,
        checkpoint=conversion.checkpoint,
        untried=None if checkpoint.config.model_type in PROVEN else _cut_model(parts, cut),
        notes=_notes(conversion),
    )


def _is_untied(aliases: Mapping[str, str], checkpoint: Checkpoint) -> bool:
    """Return whether a weight that the configuration ties is stored twice with other values.

    Such a checkpoint was trained untied, and transformers loads it so, too. Only its tied tensors
    are read.
    """
    tensors = checkpoint.tensors
    twice = [(a, b) for a, b in aliases.items() if a in tensors and b in tensors]
    return any(
        tensors[a].shape == tensors[b].shape
        and not np.array_equal(checkpoint.read(a), checkpoint.read(b))
        for a, b in twice
    )


def _without_ties(config: PretrainedConfig) -> PretrainedConfig:
    untied = copy.deepcopy(config)
    untied.tie_word_embeddings = False
    return untied


def _cut_model(parts: Template, cut: Skeleton) -> CutModel:
    from castline.exporters.stamp import stamp

    kinds = tuple(cut.kinds[layer] for layer in cut.kept)
    kept = tuple(range(len(kinds)))
    return CutModel(cut.model, stamp(parts, replace(cut, kinds=kinds, kept=kept)), cut.interface)


def _notes(conversion: Conversion) -> tuple[str, ...]:
    reasons = dict.fromkeys(conversion.heads, "as they stand on top of the model")
    reasons |= conversion.checkpoint.left_out
    return tuple(
        f"left out, {reason}: {named([n for n, of in reasons.items() if of == reason], _LISTED)}"
        for reason in dict.fromkeys(reasons.values())
    )
