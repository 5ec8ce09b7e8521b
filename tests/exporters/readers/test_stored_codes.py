from __future__ import annotations

import numpy as np

from castline.exporters.readers.stored import StoredLinear, StoredMatrix, StoredScheme
from castline.exporters.readers.stored_codes import CodesOfReader
from castline.exporters.readers.tensors import TensorSpec

SCHEME = StoredScheme("integer", 8, "per-tensor", symmetric=True)


class Reader:
    """One quantized matrix, and one whose codes cannot be had."""

    def __init__(self) -> None:
        spec = TensorSpec((1, 1), np.dtype(np.float32))
        self.stored = {"a.weight": StoredLinear(SCHEME, spec, {})}
        self.dequantized = {"b.weight": "Q4_K has scales of scales"}
        self.reads = 0

    def matrix(self, name: str) -> StoredMatrix:
        assert name == "a.weight"
        self.reads += 1
        return StoredMatrix(np.ones((1, 1), np.int8), np.ones((1, 1), np.float32))


def test_a_reader_s_matrices_come_one_by_one_when_they_are_due() -> None:
    reader = Reader()
    codes = CodesOfReader(reader)
    assert codes.schemes == {"a.weight": SCHEME}
    assert codes.dequantized == {"b.weight": "Q4_K has scales of scales"}
    matrices = codes.matrices("a.weight")
    assert reader.reads == 0
    assert len(list(matrices)) == reader.reads == 1
