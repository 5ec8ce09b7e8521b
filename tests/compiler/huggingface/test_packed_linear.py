"""A packed linear is, bit by bit, what compressed-tensors stores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from castline.compiler.huggingface.packed_linear import PackedLinear
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.errors import TargetError


def linear(**changes: Any) -> PackedLinear:
    settings: dict[str, Any] = {
        "module": "up", "n": 2, "k": 8, "bits": 4, "group": "per-channel", "symmetric": True,
        "scale_type": np.dtype(np.float32), **changes,
    }  # fmt: skip
    return PackedLinear(**settings)


def matrix(codes: Any, scales: Any, zeros: Any = None) -> QuantizedMatrix:
    code_type = np.int8 if zeros is None else np.uint8
    return QuantizedMatrix(
        np.array(codes, code_type),
        np.array(scales, np.float32),
        None if zeros is None else np.array(zeros, np.uint8),
    )


def test_signed_codes_are_counted_from_the_least_and_lie_along_k() -> None:
    codes = [[-8, 7], [-7, 6], [-6, 5], [-5, 4], [-4, 3], [-3, 2], [-2, 1], [-1, 0]]
    tensors = linear().tensors(matrix(codes, [[0.5, 0.25]]))
    words = tensors["up.weight_packed"].view(np.uint32)
    assert [[hex(word) for word in row] for row in words] == [["0x76543210"], ["0x89abcdef"]]
    assert tensors["up.weight_scale"].tolist() == [[0.5], [0.25]]
    assert tensors["up.weight_shape"].tolist() == [2, 8]
    assert tensors.keys() == linear().specs.keys()


def test_zero_points_are_packed_along_n() -> None:
    codes = np.arange(32).reshape(16, 2) % 16
    zeros = [[1, 2], [3, 4]]
    packing = linear(k=16, group=8, symmetric=False)
    tensors = packing.tensors(matrix(codes, np.ones((2, 2)), zeros))
    assert tensors["up.weight_zero_point"].tolist() == [[0x21, 0x43]]
    assert tensors["up.weight_zero_point"].dtype == np.int32


def test_eight_bits_are_bytes() -> None:
    tensors = linear(n=1, k=4, bits=8).tensors(matrix([[-128], [-1], [0], [127]], [[1.0]]))
    assert hex(tensors["up.weight_packed"].view(np.uint32)[0, 0]) == "0xff807f00"


def test_one_scale_for_all_has_an_unpacked_zero_point() -> None:
    packing = linear(group="per-tensor", symmetric=False)
    tensors = packing.tensors(matrix(np.zeros((8, 2)), [[2.0]], [[3]]))
    assert tensors["up.weight_scale"].tolist() == [2.0]
    assert tensors["up.weight_zero_point"].dtype == np.int8
    assert tensors["up.weight_zero_point"].tolist() == [3 - 8]


def test_groups_may_be_stored_in_parts_with_their_scales_repeated() -> None:
    packing = linear(n=1, k=32, group=8, symmetric=False)
    stored = packing.tensors(matrix(np.zeros((32, 1)), [[1.0], [2.0]], [[4], [5]]))
    assert stored["up.weight_scale"].tolist() == [[1, 1, 2, 2]]
    assert stored["up.weight_zero_point"].tolist() == [[4, 4, 5, 5]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, "per-channel", "per-tensor"])
@pytest.mark.parametrize("bits", [4, 8])
def test_specs_promise_what_comes(bits: int, group: Any, symmetric: bool) -> None:
    packing = linear(n=3, k=32, bits=bits, group=group, symmetric=symmetric)
    shape = {16: (2, 3), "per-channel": (1, 3), "per-tensor": (1, 1)}[group]
    zeros = None if symmetric else np.ones(shape)
    tensors = packing.tensors(matrix(np.zeros((32, 3)), np.ones(shape), zeros))
    assert {name: (one.shape, one.dtype) for name, one in tensors.items()} == {
        name: (spec.shape, spec.dtype) for name, spec in packing.specs.items()
    }


def test_a_scale_that_the_type_cannot_hold_is_refused() -> None:
    packing = linear(n=1, scale_type=np.dtype(np.float16))
    with pytest.raises(TargetError, match="up: a scale of 7e\\+04 is too large for float16"):
        packing.tensors(matrix(np.zeros((8, 1)), [[70000.0]]))


def test_scales_of_somebody_else_are_not_rounded() -> None:
    third = matrix(np.zeros((8, 1)), [[1 / 3]])
    assert linear(n=1, scale_type=np.dtype(np.float16)).tensors(third)
    with pytest.raises(TargetError, match="float16 rounds scales that are stored in float32"):
        linear(n=1, scale_type=np.dtype(np.float16), exact=True).tensors(third)
