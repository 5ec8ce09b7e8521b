"""Codes that a graph changes are counted, and what that costs is told in dB."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.importing.carried import Carried, carried_codes, searched_anew
from castline.compiler.importing.imported import imported
from castline.compiler.importing.placing import place_codes
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.quant.sqnr import sqnr_db
from castline.errors import TargetError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.export import export
from castline.exporters.readers.stored import StoredMatrix, StoredScheme

StoredIn = Callable[[str], Checkpoint]
Lower = Callable[[ir.Model, str], None]
TARGETS = ["onnx", "onnxruntime", "tensorrt-rtx", "plugins"]
QUERY = "model.layers.0.self_attn.q_proj.weight"


def counted(
    checkpoint: Checkpoint, lower: Lower, target: str, dtype: ir.DataType = ir.DataType.FLOAT
) -> Carried:
    model = export(checkpoint, dtype).model
    stored = imported(checkpoint)
    place_codes(model, stored)
    lower(model, target)
    return carried_codes(model, checkpoint, stored.given, transformed=True)


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        *itertools.product(TARGETS[:-1], [ir.DataType.FLOAT, ir.DataType.FLOAT16]),
        ("plugins", ir.DataType.FLOAT16),
    ],
)
@pytest.mark.parametrize("way", ["zero-points", "offsets", "input scale", "int8", "float8 static"])
def test_codes_as_stored_are_all_carried(
    stored_in: StoredIn, lower: Lower, way: str, dtype: ir.DataType, target: str
) -> None:
    carried = counted(stored_in(way), lower, target, dtype)
    assert carried.exact, carried.linears
    assert carried.codes == 2 * 128 * (2 * 128 + 2 * 64 + 3 * 192) + 160 * 128
    assert carried.sqnr_db == np.inf
    assert carried.words == f"all {carried.codes:,} stored codes are carried over unchanged"


@dataclass(frozen=True)
class OneMatrix:
    """One weight whose stored matrix is not what the graph got."""

    name: str
    scheme: StoredScheme
    matrix: StoredMatrix
    dequantized: dict[str, str]

    @property
    def schemes(self) -> dict[str, StoredScheme]:
        return {self.name: self.scheme}

    def matrices(self, name: str) -> Iterator[StoredMatrix]:
        assert name == self.name
        yield self.matrix


def stored_otherwise(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """Return the checkpoint as if it stored something else of one weight than the graph holds."""
    matrix = replace(checkpoint.matrix(QUERY), **changes)
    return replace(checkpoint, codes=OneMatrix(QUERY, checkpoint.quantized[QUERY], matrix, {}))


@pytest.mark.parametrize("target", TARGETS)
def test_a_code_that_is_another_is_counted(stored_in: StoredIn, lower: Lower, target: str) -> None:
    checkpoint = stored_in("zero-points")
    dtype = ir.DataType.FLOAT16 if target == "plugins" else ir.DataType.FLOAT
    model = export(checkpoint, dtype).model
    place_codes(model, imported(checkpoint))
    lower(model, target)
    stored = checkpoint.matrix(QUERY)
    codes = stored.codes.copy()
    codes[3, 5] ^= 1
    codes[127, 127] ^= 8
    other = stored_otherwise(checkpoint, codes=codes)
    carried = carried_codes(model, other, [QUERY], transformed=True)
    assert (carried.changed, carried.rounded, carried.linears) == (2, 0, [QUERY])
    wanted = sqnr_db(replace(stored, codes=codes).weight(), stored.weight())
    assert carried.sqnr_db == pytest.approx(wanted)
    assert carried.words.startswith("of 16,384 stored codes 2 change and 0 stand for rounded")


def test_a_scale_that_the_graphs_type_rounds_is_counted_for_all_its_codes(
    stored_in: StoredIn,
    lower: Lower,
) -> None:
    checkpoint = stored_in("int8")
    scales = checkpoint.matrix(QUERY).scales.astype(np.float32)
    scales[7] *= np.float32(1 + 2**-13)  # between two float16 numbers
    wide = stored_otherwise(checkpoint, scales=scales)
    codes = np.count_nonzero(checkpoint.matrix(QUERY).codes[7])
    carried = counted(wide, lower, "onnx", ir.DataType.FLOAT16)
    assert (carried.changed, carried.rounded) == (0, codes)
    assert 60 < carried.sqnr_db < 200
    assert counted(wide, lower, "onnx").exact


def test_a_scale_beyond_the_graphs_type_is_refused(stored_in: StoredIn, lower: Lower) -> None:
    checkpoint = stored_in("int8")
    scales = checkpoint.matrix(QUERY).scales.astype(np.float32)
    scales[0] = 1e5
    huge = stored_otherwise(checkpoint, scales=scales)
    with pytest.raises(TargetError, match=f"{QUERY}: its stored scales are beyond the largest"):
        counted(huge, lower, "onnx", ir.DataType.FLOAT16)


@pytest.mark.parametrize("way", ["zero-points", "act-order", "input scale"])
def test_rounding_anew_is_counted_by_the_weights(stored_in: StoredIn, way: str) -> None:
    checkpoint = stored_in(way)
    names = list(checkpoint.quantized)
    model = export(checkpoint).model
    in_float = carried_codes(model, checkpoint, names, transformed=False)
    assert in_float.exact, "the values are those of the codes"
    QuantizeWeights(WeightScheme(3, 32, True))(model)
    carried = carried_codes(model, checkpoint, names, transformed=False)
    assert carried.changed > carried.codes / 10
    assert carried.rounded > 0
    assert 5 < carried.sqnr_db < 25
    assert "lm_head.weight" not in carried.linears, "it was not rounded"


def test_codes_searched_anew_are_all_changed_at_no_known_cost(stored_in: StoredIn) -> None:
    carried = searched_anew(stored_in("int8"))
    assert carried.codes == carried.changed == 2 * 128 * (2 * 128 + 2 * 64 + 3 * 192) + 160 * 128
    assert np.isnan(carried.sqnr_db)
    assert carried.words.endswith("stored codes gave way to ones that were searched anew")
    assert carried.to_json()["changed"] == carried.codes
