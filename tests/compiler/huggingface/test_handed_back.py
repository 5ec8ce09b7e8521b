"""Each tensor is written as codes, folded, or as it was, and what differs is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.huggingface.handed_back import HandedBack, schemes_of
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import WeightScheme
from castline.exporters.promise import Scaling

UP = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"
SCHEME = WeightScheme(4, 32, True)


@pytest.fixture
def handed(tiny: Callable[[str], Any]) -> Callable[..., HandedBack]:
    def make(**changes: Any) -> HandedBack:
        settings: dict[str, Any] = {
            "checkpoint": tiny("llama").checkpoint, "schemes": {UP: SCHEME}, "given": {},
            "scalings": {}, "float_type": ir.DataType.FLOAT, "recast": False, "exact": False,
            "derived": False, "ignored": (), **changes,
        }  # fmt: skip
        return HandedBack(**settings)

    return make


def arrays(handed: HandedBack) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for unit in handed.units():
        found |= unit.compute()
    return found


def test_all_but_the_codes_keeps_its_name_and_value(handed: Callable[..., HandedBack]) -> None:
    made = handed()
    found = arrays(made)
    packed = {UP.replace("weight", f"weight_{part}") for part in ("packed", "scale", "shape")}
    assert found.keys() == (made.checkpoint.tensors.keys() - {UP}) | packed
    np.testing.assert_array_equal(found[NORM], made.checkpoint.read(NORM))


def test_a_scale_is_folded_before_rounding(handed: Callable[..., HandedBack]) -> None:
    doubled = Scaling(np.full((1, 128), 2.0))
    plain, folded = arrays(handed()), arrays(handed(scalings={UP: (doubled,), NORM: (halved(),)}))
    name = UP.replace("weight", "weight_scale")
    np.testing.assert_allclose(folded[name], 2 * plain[name], rtol=1e-6)
    np.testing.assert_array_equal(folded[NORM], plain[NORM] / 2)


def halved() -> Scaling:
    return Scaling(np.full(128, 0.5))


def test_given_codes_are_written_and_nothing_is_rounded(handed: Callable[..., HandedBack]) -> None:
    codes = np.random.default_rng(0).integers(-8, 8, (128, 192)).astype(np.int8)
    matrix = QuantizedMatrix(codes, np.full((4, 192), 0.25, np.float32), None)
    found = arrays(handed(given={UP: GivenCodes(SCHEME, lambda: (matrix,))}))
    assert (found[UP.replace("weight", "weight_scale")] == 0.25).all()
    words = found[UP.replace("weight", "weight_packed")].view(np.uint32)
    np.testing.assert_array_equal(words[:, 0] & 15, codes[0] + 8)


def test_a_type_holds_for_all_where_it_is_asked_for(handed: Callable[..., HandedBack]) -> None:
    found = arrays(handed(float_type=ir.DataType.BFLOAT16, recast=True))
    assert found[NORM].dtype == ml_dtypes.bfloat16
    assert found[UP.replace("weight", "weight_scale")].dtype == ml_dtypes.bfloat16
    kept = arrays(handed(float_type=ir.DataType.BFLOAT16))
    assert kept[NORM].dtype == np.float32


def test_what_is_stored_otherwise_than_asked_for_is_said(handed: Callable[..., HandedBack]) -> None:
    three = WeightScheme(3, 128, False)
    assert handed().notes() == ()
    assert [
        note.partition(",")[0] for note in handed(schemes={UP: three, DOWN: three}).notes()
    ] == [
        "codes of 3 bits are stored in 4",
        "group 128 does not divide K = 192: group 64 used for 1 linears",
        "1 linears are stored in groups of 64",
        "transformers turns the codes into weights as it loads them",
    ]


def test_linears_of_their_own_class_are_dequantized(handed: Callable[..., HandedBack]) -> None:
    assert not handed().dequantized
    assert handed(derived=True).dequantized


def test_the_head_and_what_is_kept_stay_in_float(tiny: Callable[[str], Any]) -> None:
    given = {DOWN: GivenCodes(WeightScheme(8, 64, True), tuple)}
    schemes = schemes_of(tiny("llama").model(), SCHEME, {UP: "asked for", DOWN: "too"}, given)
    assert len(schemes) == 13
    assert schemes[DOWN] == WeightScheme(8, 64, True)
    assert not {UP, "lm_head.weight"} & schemes.keys()
    assert schemes_of(tiny("llama").model(), None, {}, given).keys() == {DOWN}
