"""What a checkpoint stores is what the passes get, and only what must be is read before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.importing.imported import Imported, imported, quantized_matrix
from castline.compiler.passes.transform_inputs import InputTransform
from castline.compiler.quant.round_to_nearest import dequantize
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.stored import StoredMatrix, StoredScheme

StoredIn = Callable[[str], Checkpoint]
QUERY = "model.layers.0.self_attn.q_proj.weight"


@dataclass(frozen=True)
class Unread:
    """Codes that nobody may read."""

    schemes: dict[str, StoredScheme]
    dequantized: dict[str, str]

    def matrices(self, name: str) -> Iterator[StoredMatrix]:
        pytest.fail(f"{name} was read")


def test_schemes_are_those_of_the_checkpoint(stored_in: StoredIn) -> None:
    given = imported(stored_in("zero-points")).given
    assert len(given) == 2 * 7 + 1
    assert given[QUERY].scheme == WeightScheme(4, 32, symmetric=False)
    assert given["lm_head.weight"].scheme == WeightScheme(4, 32, symmetric=False)
    float8 = imported(stored_in("float8 static")).given[QUERY]
    assert (float8.float8, float8.scheme) == (True, WeightScheme(8, "per-tensor", True))
    assert imported(stored_in("offsets")).given[QUERY].has_offsets


def test_codes_are_not_read_before_they_are_asked_for(stored_in: StoredIn) -> None:
    checkpoint = stored_in("offsets")
    unread = Unread(dict(checkpoint.quantized), {})
    assert imported(replace(checkpoint, codes=unread)).given.keys() == checkpoint.quantized.keys()


@pytest.mark.parametrize("way", ["zero-points", "offsets", "int8", "float8 static"])
def test_a_matrix_stands_for_the_weight_that_is_stored(stored_in: StoredIn, way: str) -> None:
    stored = stored_in(way).matrix(QUERY)
    (matrix,) = imported(stored_in(way)).given[QUERY].matrices()
    np.testing.assert_array_equal(matrix.codes, stored.codes.T)
    assert matrix.scales.dtype == np.float16
    np.testing.assert_array_equal(dequantize(matrix), stored.weight().T)


def test_orders_and_input_scales_are_read_and_given_to_what_is_read(stored_in: StoredIn) -> None:
    ordered, scaled = stored_in("act-order"), stored_in("input scale")
    transform = imported(ordered).transforms[QUERY]
    np.testing.assert_array_equal(transform.order, ordered.matrix(QUERY).order)
    assert transform.factor is None
    transform = imported(scaled).transforms[QUERY]
    np.testing.assert_array_equal(transform.factor, scaled.matrix(QUERY).input_scale)
    assert transform.order is None
    x = np.random.default_rng(0).standard_normal((3, 128)).astype(np.float32)
    for checkpoint in (ordered, scaled):
        stored = checkpoint.matrix(QUERY)
        factor = 1 if stored.input_scale is None else stored.input_scale.astype(np.float32)
        order = slice(None) if stored.order is None else stored.order
        found = (x * factor)[:, order] @ dequantize(quantized_matrix(stored))
        np.testing.assert_allclose(found, x @ stored.weight().T, rtol=1e-4, atol=1e-4)


def test_activations_are_quantized_as_stored(stored_in: StoredIn) -> None:
    dynamic = imported(stored_in("int8 dynamic")).activations
    assert dynamic[QUERY] == (ActivationScheme(8, "per-token", dynamic=True), None)
    static = imported(stored_in("int8 static")).activations
    scheme = ActivationScheme(8, "per-tensor", dynamic=False)
    assert static[QUERY] == (scheme, QuantParameters(0.05, 0))
    assert imported(stored_in("float8 static")).float8_activations[QUERY] == 1 / 64
    assert imported(stored_in("int8")).activations == {}


def test_what_no_operator_quantizes_is_named(stored_in: StoredIn) -> None:
    found = imported(stored_in("float8 dynamic"))
    assert found.float_activations[QUERY] == "E4M3 by scales taken at run time has no operator yet"
    assert found.activations == found.float8_activations == {}


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (StoredScheme("integer", 4, 8, False), "groups of 8 are none of a power of two from 16 on"),
        (StoredScheme("integer", 4, 48, False), "groups of 48 are none of a power of two from 16"),
        (StoredScheme("integer", 8, 32, True, has_offsets=True), "codes of 8 bits have offsets"),
    ],
)
def test_what_the_graph_has_no_form_for_is_carried_by_value(
    stored_in: StoredIn, scheme: StoredScheme, reason: str
) -> None:
    codes = Unread({QUERY: scheme}, {"model.norm.weight": "Q6_K"})
    found = imported(replace(stored_in("int8"), codes=codes))
    assert found.given == {}
    assert found.by_value["model.norm.weight"] == "Q6_K"
    assert reason in found.by_value[QUERY]


def test_factors_and_scales_that_a_type_rounds_are_counted() -> None:
    factor = np.array([1, 0.1, 2**-20], np.float32)  # 0.1 and the last are no float16
    scheme: Any = ActivationScheme(8, "per-tensor", dynamic=False)
    found = Imported(
        transforms={"a": InputTransform(factor), "b": InputTransform(order=np.arange(3))},
        activations={"a": (scheme, QuantParameters(0.3, 0)), "b": (scheme, None)},
        float8_activations={"c": 0.5},
    )
    assert found.inexact_factors(ir.DataType.FLOAT16) == 2
    assert found.inexact_factors(ir.DataType.FLOAT) == 1, "0.3 is stored as a float64 here"
