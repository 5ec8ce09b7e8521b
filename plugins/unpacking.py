"""Undo the packed layout in standard operators: what the bodies of the packed ops begin with.

plugins/packing.py draws the layout and does the same in numpy. ONNX Runtime computes these nodes
once, when it loads a model, since they read initializers alone.
"""

from __future__ import annotations

# As few and as narrow steps as there are: ONNX Runtime holds what each of them puts out, of all
# weights, until it has loaded the model.
_WEIGHTS_4 = """
        cut = Constant <value_ints = [0, 0, 8, 4, 2, 2, 4, 1]> ()
        packed_cut = Reshape (packed, cut)
        unsigned_bytes = Cast <to = 2> (packed_cut)
        nibble = Constant <value = uint8 {4}> ()
        high_halves = BitShift <direction = "RIGHT"> (unsigned_bytes, nibble)
        halves = Concat <axis = 7> (unsigned_bytes, high_halves)
        by_channel = Transpose <perm = [1, 4, 3, 5, 6, 0, 7, 2]> (halves)
"""
_WEIGHTS_8 = """
        cut = Constant <value_ints = [0, 0, 2, 8, 4, 2, 2, 4]> ()
        as_stored = Reshape (packed, cut)
        by_channel = Transpose <perm = [1, 2, 4, 5, 7, 0, 6, 3]> (as_stored)
"""
_WITHOUT_PADDING = """
        block_depth = Constant <value_ints = [64]> ()
        rest_of_it = Constant <value_ints = [-1]> ()
        block_count = Shape <start = 1, end = 2> (packed)
        padded_k = Mul (block_count, block_depth)
        padded_sizes = Concat <axis = 0> (padded_k, rest_of_it)
        padded_codes = Reshape (by_channel, padded_sizes)
        origin = Constant <value_ints = [0, 0]> ()
        k_size = Constant <value_int: int = @k> ()
        n_size = Constant <value_int: int = @n> ()
        vector = Constant <value_ints = [1]> ()
        k_end = Reshape (k_size, vector)
        n_end = Reshape (n_size, vector)
        ends = Concat <axis = 0> (k_end, n_end)
        RESULT = Slice (padded_codes, origin, ends)
"""
# A byte cast to INT4 (type 22) keeps its low four bits, as two's complement.
_LOW_HALVES = """
        weight_codes = Cast <to = 22> (with_high_halves)
"""
WEIGHTS = {
    4: _WEIGHTS_4 + _WITHOUT_PADDING.replace("RESULT", "with_high_halves") + _LOW_HALVES,
    8: _WEIGHTS_8 + _WITHOUT_PADDING.replace("RESULT", "weight_codes"),
}
"""Bits -> nodes from `packed` to `weight_codes` [K, N], INT4 or INT8; they read attributes k and n.

They also leave int64 [1] `n_end`, which is n.
"""

_GROUPS = """
        PART_cut = Constant <value_ints = [0, 0, 8, 2]> ()
        PART_as_stored = Reshape (PART, PART_cut)
        PART_by_group = Transpose <perm = [1, 0, 3, 2]> (PART_as_stored)
        PART_sizes = Constant <value_ints = [0, -1]> ()
        PART_padded = Reshape (PART_by_group, PART_sizes)
        PART_origin = Constant <value_ints = [0]> ()
        PART_axis = Constant <value_ints = [1]> ()
        PART_of_groups = Slice (PART_padded, PART_origin, n_end, PART_axis)
"""


def of_groups(part: str) -> str:
    """Return nodes from `part` [strips, G, 16] to `<part>_of_groups` [G, N]; they read `n_end`."""
    return _GROUPS.replace("PART", part)
