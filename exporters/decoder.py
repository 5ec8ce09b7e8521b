"""Export a decoder checkpoint: trace a layer of each kind, stamp the stack, promise the weights."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.exporters.bind import bind
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.families import family_of
from castline.progress import Progress, SilentProgress


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
    """Return the float graph of a checkpoint; time and memory do not depend on the layer count.

    `dtype` is FLOAT, FLOAT16 or BFLOAT16. Raises UnsupportedArchitectureError for an architecture
    without an exporter, CheckpointError when the tensors do not fit the configuration.
    """
    progress = progress or SilentProgress()
    config = checkpoint.config
    family = family_of(config.model_type)
    with progress.stage("Importing torch"):
        # Importing torch and transformers takes seconds; a wrong argument should not wait for them.
        from castline.exporters.retype import retype
        from castline.exporters.skeleton import skeleton
        from castline.exporters.stamp import stamp
        from castline.exporters.template import template
        from castline.exporters.trace import trace
    with progress.stage("Tracing one layer of each kind"):
        cut = skeleton(config)
        traced = trace(cut, config)
    with progress.stage(f"Stamping {len(cut.kinds)} layers"):
        model = stamp(template(traced, cut.stack, len(cut.kept)), cut)
        retype(model, dtype)
        bind(model, cut, checkpoint, family.ignored_tensors)
    return Decoder(model, type(cut.model).__name__, len(cut.kinds), cut.parameters)
