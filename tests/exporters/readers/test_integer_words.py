from __future__ import annotations

import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.integer_words import (
    integer_matrix,
    misshapen,
    modules_with_codes,
    named_problem,
)
from castline.exporters.readers.tensors import TensorSpec

WORDS = TensorSpec((4, 2), np.dtype(np.int32))
SCALES = TensorSpec((1, 2), np.dtype(np.float16))
PARTS = {part: f"m.{part}" for part in ("qweight", "qzeros", "scales")}
LINEAR = {"m.qweight": WORDS, "m.qzeros": WORDS, "m.scales": SCALES}


def test_modules_are_told_by_their_codes() -> None:
    problems: list[str] = []
    tensors = LINEAR | {"n.scales": SCALES, "m.bias": SCALES, "m.g_idx": WORDS}
    found = dict(modules_with_codes(tensors, (*PARTS, "g_idx"), problems))
    assert found == {"m": PARTS | {"g_idx": "m.g_idx"}}
    assert problems == []


def test_a_module_with_absent_or_strange_parts_is_a_problem() -> None:
    problems: list[str] = []
    tensors = {"m.qweight": SCALES, "m.qzeros": WORDS}
    assert not dict(modules_with_codes(tensors, tuple(PARTS), problems))
    assert problems == [
        "m.qweight is float16 [1, 2], expected a matrix of int32",
        "m.scales is absent",
    ]


def test_a_shape_that_does_not_follow_is_a_problem() -> None:
    assert misshapen(PARTS, {"qzeros": (4, 2), "scales": (1, 2), "g_idx": (9,)}, LINEAR) == []
    assert misshapen(PARTS, {"scales": (2, 2)}, LINEAR) == [
        "m.scales is [1, 2], expected [2, 2] beside m.qweight [4, 2]"
    ]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_signed_codes_are_the_distances_from_the_middle(bits: int) -> None:
    codes = np.arange(2**bits, dtype=np.uint8)[None]
    zeros = np.full((1, 1), 2 ** (bits - 1), np.uint8)
    scales = np.ones((1, 1), np.float16)
    matrix = integer_matrix(PARTS, codes, scales, zeros, bits=bits, symmetric=True)
    assert matrix.codes.tolist() == [list(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))]
    assert matrix.zero_points is None
    unsigned = integer_matrix(PARTS, codes, scales, zeros, bits=bits, symmetric=False)
    assert unsigned.codes is codes
    assert unsigned.zero_points is zeros


def test_what_a_matrix_cannot_hold_is_named() -> None:
    codes, zeros = np.zeros((1, 2), np.uint8), np.full((1, 1), 7, np.uint8)
    with pytest.raises(CheckpointError, match=r"m\.scales holds 1 of 1 values"):
        integer_matrix(PARTS, codes, np.array([[np.nan]]), zeros, bits=4, symmetric=False)
    with pytest.raises(CheckpointError, match=r"m\.qzeros holds 1 of 1 zero-points .* not 8"):
        integer_matrix(PARTS, codes, np.ones((1, 1)), zeros, bits=4, symmetric=True)


def test_modules_share_a_problem() -> None:
    assert named_problem("odd", []) == []
    assert named_problem("odd", ["a", "b"]) == ["odd: a, b"]
