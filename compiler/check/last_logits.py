"""Hold the logits of a model that was cut to the last token to those it gave before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from castline.compiler.targets.generation import Tokens
from castline.compiler.targets.session import DecoderSession
from castline.errors import GateFailedError

_TOKENS = 64
# Of the largest logit: a product of one row is summed in another order than one of many.
_TOLERANCE = {1: 1e-5, 10: 1e-2}  # by the onnx.TensorProto.DataType of the logits


def require_last_logits(folder: Path, windows: Tokens, threads: int | None) -> float:
    """Return how far the last logits are from the same row of all, relative to the largest.

    The first window, [count, length] with at most 64 of its tokens, is read by both forms of the
    model in `folder`. Raises GateFailedError where they differ by more than rounding.
    """
    tokens = windows[:1, :_TOKENS]
    whole = DecoderSession.open(folder, threads=threads)
    cut = DecoderSession.open(folder, threads=threads, logits="last")
    expected, found = whole.logits(tokens)[:, -1:], cut.logits(tokens)
    if found.shape != expected.shape:
        raise GateFailedError(
            f"The logits were to be cut to {expected.shape}, and the model gives {found.shape}. "
            "Nothing was published: use --logits all."
        )
    apart = float(np.abs(found - expected).max() / np.abs(expected).max())
    allowed = _TOLERANCE[1 if _is_float32(cut) else 10]
    if not apart <= allowed:
        raise GateFailedError(
            f"The logits of the last token differ by {apart:.1e} of the largest from what the "
            f"model gave before it was cut to them, must be at most {allowed:.0e}. Nothing was "
            "published: use --logits all."
        )
    return apart


def _is_float32(decoder: DecoderSession) -> bool:
    (logits,) = (node for node in decoder.session.get_outputs() if node.name == "logits")
    return bool(logits.type == "tensor(float)")
