"""Export a decoder checkpoint: trace a layer of each kind, stamp the stack, promise the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from castline.exporters.bind import bind
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.families import family_of
from castline.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Decoder:
    """A decoder's float graph whose weights are read when it is written."""

    model: ir.Model
    architecture: str
    """Class name in Hugging Face's transformers, such as "LlamaForCausalLM"."""
    layers: int
    parameters: int
    """Number of weights, tied ones counted once."""


def decoder(
    checkpoint: Checkpoint,
    dtype: ir.DataType = ir.DataType.FLOAT,
    progress: Progress | None = None,
) -> Decoder:
    """Return the float graph of a checkpoint; tracing does not grow with the layer count.

    `dtype` is FLOAT, FLOAT16 or BFLOAT16. Raises UnsupportedArchitectureError for an architecture
    without an exporter, CheckpointError when the tensors do not fit the configuration.
    """
    progress = progress or SilentProgress()
    family = family_of(checkpoint.config.model_type)
    with progress.stage("Importing torch"):
        # Importing torch and transformers takes seconds; a wrong argument should not wait for them.
        from castline.exporters.retype import retype
        from castline.exporters.skeleton import skeleton
        from castline.exporters.stamp import stamp
        from castline.exporters.template import template
        from castline.exporters.trace import trace
    with progress.stage("Tracing one layer of each kind"):
        cut = skeleton(checkpoint.config)
        if _is_untied(cut.aliases, checkpoint):
            cut = skeleton(_without_ties(checkpoint.config))
        traced = trace(cut)
    with progress.stage(f"Stamping {len(cut.kinds)} layers"):
        model = stamp(template(traced, cut.stack, len(cut.kept)), cut)
        retype(model, dtype)
        bind(model, cut, checkpoint, family.ignored_tensors)
    return Decoder(model, type(cut.model).__name__, len(cut.kinds), cut.parameters)


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
