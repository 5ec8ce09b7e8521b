"""Carry stored codes on to the parameters that a model makes of a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from castline.exporters.readers.converted import Made, Part
from castline.exporters.readers.stored import StoredMatrix, StoredScheme
from castline.exporters.readers.tensors import Array

if TYPE_CHECKING:
    from castline.exporters.checkpoint import Checkpoint


class ConvertedCodes:
    """The codes of a checkpoint under other names, put together as its tensors are.

    A parameter that is a tensor under another name keeps whatever is stored of it. One that is put
    together keeps codes where all its sources are stored in the same way and only rows move.
    """

    def __init__(self, checkpoint: Checkpoint, made: Mapping[str, Made]) -> None:
        self._checkpoint = checkpoint
        self._made = made
        self.schemes: dict[str, StoredScheme] = {}
        self.dequantized: dict[str, str] = {}
        for name, each in made.items():
            carried = _carried(each, checkpoint)
            if isinstance(carried, StoredScheme):
                self.schemes[name] = carried
            elif carried:
                self.dequantized[name] = carried

    def matrices(self, name: str) -> Iterator[StoredMatrix]:
        """Yield the parameter's matrices in order, reading each when it is due."""
        per_channel = self.schemes[name].group_size == "per-channel"
        for part in self._made[name].parts:
            sources = [self._checkpoint.matrix(source) for source in part.sources]
            if part.make is None:
                yield sources[0]
                continue
            rows = [_with_rows(matrix) for matrix in sources] if per_channel else sources
            yield from _moved(part, rows)


def _carried(made: Made, checkpoint: Checkpoint) -> StoredScheme | str:
    """Return the scheme of the codes, or why none are carried: "" where none are stored."""
    sources = [source for part in made.parts for source in part.sources]
    schemes = checkpoint.quantized
    if not any(source in schemes for source in sources):
        reasons = (checkpoint.dequantized.get(source, "") for source in sources)
        return next(filter(None, reasons), "")
    if any(source not in schemes for source in sources):
        return "some of the tensors that it is made of are not quantized"
    scheme = schemes[sources[0]]
    if all(part.make is None for part in made.parts):
        return scheme
    if reason := _hindrance(made.parts, [schemes[source] for source in sources]):
        return reason
    # One scale for each of several matrices is one scale for each row of them together.
    joins = scheme.group_size == "per-tensor" and any(len(part.sources) > 1 for part in made.parts)
    return replace(scheme, group_size="per-channel") if joins else scheme


def _hindrance(parts: Sequence[Part], schemes: Sequence[StoredScheme]) -> str:
    """Return what keeps the codes of several matrices from going together, "" for nothing."""
    scheme = schemes[0]
    if any(other != scheme for other in schemes):
        return "the tensors that it is made of are quantized in different ways"
    if not all(part.of_rows for part in parts):
        return "its columns are not those of the tensors that it is made of"
    if scheme.has_order:
        return "the tensors that it is made of each have their own order of columns (act-order)"
    if scheme.has_input_scale:
        return "the tensors that it is made of each scale what they read"
    if scheme.activations is not None and not scheme.activations.dynamic:
        return "the tensors that it is made of each quantize what they read with their own scale"
    return ""


def _with_rows(matrix: StoredMatrix) -> StoredMatrix:
    """Return the same matrix with its scales, [1, 1] or [N, 1], as [N, 1]."""
    rows = len(matrix.codes)

    def per_row(array: Array | None) -> Array | None:
        return None if array is None else np.repeat(array, rows // len(array), axis=0)

    scales = per_row(matrix.scales)
    assert scales is not None, "every stored matrix has scales"
    return replace(
        matrix,
        scales=scales,
        zero_points=per_row(matrix.zero_points),
        offsets=per_row(matrix.offsets),
    )


def _moved(part: Part, sources: Sequence[StoredMatrix]) -> Iterator[StoredMatrix]:
    """Yield the matrices that a part makes of its sources."""
    codes = _through(part, [each.codes for each in sources])
    scales = _through(part, [each.scales for each in sources])
    zeros = _through(part, [each.zero_points for each in sources])
    offsets = _through(part, [each.offsets for each in sources])
    assert codes is not None, "every stored matrix has codes"
    assert scales is not None, "every stored matrix has scales"
    for nth in range(len(codes)):
        yield StoredMatrix(
            codes[nth],
            scales[nth],
            None if zeros is None else zeros[nth],
            None if offsets is None else offsets[nth],
        )


def _through(part: Part, arrays: Sequence[Array | None]) -> Array | None:
    """Return what the part makes of the arrays [N, ...] as a stack [E, N, ...]; None of None."""
    present = [array for array in arrays if array is not None]
    if not present:
        return None
    assert part.make is not None, "a part of several matrices is made of them"
    made = part.make(present)
    return made if made.ndim == 3 else made[np.newaxis]
