"""Open what a compilation starts from: the dtype, the text to judge by, the traced graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from castline.errors import TargetError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.export import Exported
from castline.progress import Progress

if TYPE_CHECKING:
    from castline.compiler.check.evaluation_text import HeldOutPassages, HeldOutText

DTYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}
AS_STORED = "checkpoint"
"""The dtype that most weights have in the checkpoint."""


def float_type_of(dtype: str, checkpoint: Checkpoint) -> ir.DataType:
    """Return the type that a name means, "checkpoint" the one that most of its weights have.

    Raises TargetError for another name.
    """
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype != AS_STORED:
        raise TargetError(f"dtype is {dtype!r}; expected {', '.join(DTYPES)} or {AS_STORED}.")
    stored = Counter[str]()
    for spec in checkpoint.tensors.values():
        stored[spec.dtype.name] += spec.size
    return DTYPES.get(stored.most_common(1)[0][0], ir.DataType.FLOAT)


def tried(exported: Exported, progress: Progress) -> Exported:
    """Hold an architecture that no test covers against Hugging Face's code before going on."""
    if exported.untried is None:
        return exported
    from castline.compiler.check.trial import try_out

    with progress.stage("Trying the architecture with random weights"):
        worst = try_out(exported.untried)
    note = (
        f"{exported.architecture} is none of the architectures that Castline's tests cover; tried "
        f"with random weights, its graph equals Hugging Face's code to {worst:.0e} of the largest "
        "value"
    )
    return replace(exported, untried=None, notes=(*exported.notes, note))


def text_to_judge_by(
    checkpoint: Checkpoint, source: str | None, progress: Progress
) -> HeldOutText | HeldOutPassages:
    """Return the held-out text of `source`, or the shipped one. Raises as held_out_text."""
    from castline.compiler.check.evaluation_text import held_out_text

    with progress.stage("Reading the evaluation text"):
        return held_out_text(checkpoint, source)
