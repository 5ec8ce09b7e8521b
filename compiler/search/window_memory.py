"""Estimate how much memory a window of blocks takes while it learns."""

from __future__ import annotations

import math
from collections.abc import Iterable

_FLOAT32 = 4
_WEIGHTS = 2  # each matrix as the model has it, and quantized

_KEPT = 3.0
"""Floats that the peak is made of, by those that the matrices read and give. Measured on
SmolLM2-135M with windows of 1 to 4 blocks and 256 and 1024 tokens: 2.1 to 3.1. Half of it is what
the backward pass needs (1.0 to 1.5 on most architectures, 1.9 where torch has no operator for the
activation); the rest is the heap's, which finds no use for the gaps between."""

_SCORES = 4.0
"""The same by attention scores, where they are kept: two of each, and as much of the heap's."""


def window_bytes(
    matrices: Iterable[tuple[int, ...]],
    samples: int,
    length: int,
    *,
    experts: int = 1,
    score_heads: int = 0,
    summed: Iterable[tuple[int, ...]] = (),
) -> int:
    """Return about how many bytes a window takes while it learns, beside what was there before.

    `matrices` has the shapes of the weights of all its blocks' linears, [N, K] or [E, N, K]; a step
    is on `samples` of `length` tokens. `experts` is how many of a stack a token goes through.
    `score_heads` is the sum over the window's blocks of heads whose scores [length, length] are in
    memory: none where attention is one operator. `summed` has the shape of one matrix for
    each value that is read and whose x^T x, [K, K], is kept until codes are chosen by it.
    """
    weights, passing = 0, 0
    for shape in matrices:
        weights += math.prod(shape)
        passing += sum(shape[-2:]) * (experts if len(shape) == 3 else 1)
    values = _KEPT * passing * length + _SCORES * score_heads * length**2
    sums = sum(math.prod(shape[:-2]) * shape[-1] ** 2 for shape in summed)
    return _FLOAT32 * (_WEIGHTS * weights + sums + math.ceil(samples * values))
