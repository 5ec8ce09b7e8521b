from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.converted import Made, Part
from castline.exporters.readers.converted_codes import ConvertedCodes
from castline.exporters.readers.stored import (
    StoredActivations,
    StoredLinear,
    StoredMatrix,
    StoredScheme,
)
from castline.exporters.readers.stored_codes import CodesOfReader
from castline.exporters.readers.tensors import Array, TensorSpec

SCHEME = StoredScheme("integer", 4, 2, symmetric=False)
SPEC = TensorSpec((2, 4), np.dtype(np.float32))
STATIC = StoredActivations("integer", 8, per_token=False, dynamic=False, symmetric=True)


class Stored:
    """Matrices [2, 4] by name, and how each is stored."""

    files: tuple[Path, ...] = ()

    def __init__(self, schemes: Mapping[str, StoredScheme], floats: Sequence[str] = ()) -> None:
        self.stored = {name: StoredLinear(each, SPEC, {}) for name, each in schemes.items()}
        self.dequantized = {"k": "Q4_K has scales of scales"}
        self.tensors = dict.fromkeys([*schemes, *floats, "k"], SPEC)
        self.reads: list[str] = []

    def matrix(self, name: str) -> StoredMatrix:
        self.reads.append(name)
        first = 8 * list(self.stored).index(name)
        codes = np.arange(first, first + 8, dtype=np.uint8).reshape(2, 4)
        whole = self.stored[name].scheme.group_size == "per-tensor"
        scales = np.full((1, 1) if whole else (2, 2), first + 1, np.float16)
        zeros = None if whole else np.full((2, 2), first, np.uint8)
        return StoredMatrix(codes, scales, zeros, None if whole else -scales)

    def read(self, name: str) -> Array:
        raise AssertionError(name)

    def file_of(self, name: str) -> Path:
        raise AssertionError(name)


def codes_of(stored: Stored, *parts: Part) -> ConvertedCodes:
    codes = CodesOfReader(stored)
    checkpoint = Checkpoint("memory", cast(Any, None), stored, cast(Any, None), None, codes)
    return ConvertedCodes(checkpoint, {"made": Made(SPEC, parts)})


def stacked(arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays)[np.newaxis]


def test_a_matrix_under_another_name_keeps_all_that_is_stored_of_it() -> None:
    scheme = replace(SCHEME, has_order=True, has_input_scale=True, activations=STATIC)
    stored = Stored({"a": scheme})
    codes = codes_of(stored, Part(("a",)))
    assert codes.schemes == {"made": scheme}
    (found,) = codes.matrices("made")
    np.testing.assert_array_equal(found.codes, stored.matrix("a").codes)


def test_a_stack_comes_matrix_by_matrix_with_the_rows_of_its_sources() -> None:
    stored = Stored(dict.fromkeys("abcd", SCHEME))
    codes = codes_of(
        stored, Part(("a", "b"), stacked, of_rows=True), Part(("c", "d"), stacked, of_rows=True)
    )
    assert codes.schemes == {"made": SCHEME}
    matrices = codes.matrices("made")
    first = next(matrices)
    assert stored.reads == ["a", "b"]
    np.testing.assert_array_equal(first.codes, np.arange(16).reshape(4, 4))
    np.testing.assert_array_equal(first.scales, [[1, 1], [1, 1], [9, 9], [9, 9]])
    np.testing.assert_array_equal(first.zero_points, [[0, 0], [0, 0], [8, 8], [8, 8]])
    np.testing.assert_array_equal(first.offsets, -first.scales)
    (second,) = matrices
    np.testing.assert_array_equal(second.codes, np.arange(16, 32).reshape(4, 4))


def test_one_scale_for_each_source_becomes_one_for_each_row() -> None:
    whole = StoredScheme("integer", 8, "per-tensor", symmetric=True)
    codes = codes_of(
        Stored({"a": whole, "b": whole}), Part(("a", "b"), np.concatenate, of_rows=True)
    )
    assert codes.schemes["made"].group_size == "per-channel"
    (found,) = codes.matrices("made")
    np.testing.assert_array_equal(found.scales, [[1], [1], [9], [9]])
    assert found.zero_points is None


def test_one_scale_for_each_matrix_of_a_stack_stays_one() -> None:
    whole = StoredScheme("integer", 8, "per-tensor", symmetric=True)
    parts = [Part((name,), stacked, of_rows=True) for name in "ab"]
    codes = codes_of(Stored({"a": whole, "b": whole}), *parts)
    assert codes.schemes["made"].group_size == "per-tensor"
    assert [each.scales.tolist() for each in codes.matrices("made")] == [[[1]], [[9]]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: replace(s, has_order=True), "own order of columns"),
        (lambda s: replace(s, has_input_scale=True), "each scale what they read"),
        (lambda s: replace(s, activations=STATIC), "quantize what they read with their own scale"),
    ],
)
def test_what_each_source_has_of_its_own_is_not_carried_on(
    change: Callable[[StoredScheme], StoredScheme], reason: str
) -> None:
    stored = Stored(dict.fromkeys("ab", change(SCHEME)))
    codes = codes_of(stored, Part(("a", "b"), np.concatenate, of_rows=True))
    assert codes.schemes == {}
    assert reason in codes.dequantized["made"]


def test_scales_of_each_token_are_carried_on() -> None:
    dynamic = replace(SCHEME, activations=replace(STATIC, per_token=True, dynamic=True))
    stored = Stored(dict.fromkeys("ab", dynamic))
    codes = codes_of(stored, Part(("a", "b"), np.concatenate, of_rows=True))
    assert codes.schemes == {"made": dynamic}


@pytest.mark.parametrize(
    ("schemes", "of_rows", "reason"),
    [
        ({"a": SCHEME, "b": replace(SCHEME, bits=8)}, True, "quantized in different ways"),
        ({"a": SCHEME, "b": SCHEME}, False, "columns are not those"),
        ({"a": SCHEME}, True, "some of the tensors that it is made of are not quantized"),
    ],
)
def test_sources_that_do_not_go_together_are_told(
    schemes: dict[str, StoredScheme], of_rows: bool, reason: str
) -> None:
    codes = codes_of(Stored(schemes, ["b"]), Part(("a", "b"), np.concatenate, of_rows=of_rows))
    assert codes.schemes == {}
    assert reason in codes.dequantized["made"]


def test_the_reason_of_a_source_is_carried_on() -> None:
    assert codes_of(Stored({}), Part(("k",))).dequantized == {"made": "Q4_K has scales of scales"}


def test_a_parameter_in_float_is_neither() -> None:
    codes = codes_of(Stored({"a": SCHEME}, ["b"]), Part(("b",)))
    assert codes.schemes == codes.dequantized == {}
