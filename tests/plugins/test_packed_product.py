"""Sums of products by packed codes are exact, and the bodies do what the references say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from castline.plugins.catalogue import PACKED
from castline.plugins.linear_w4a4.packed import PACKED_LINEAR_W4A4, PACKED_LINEAR_W4A4_ASYMMETRIC
from castline.plugins.linear_w4a8.packed import (
    PACKED_LINEAR_W4A8,
    PACKED_LINEAR_W4A8_ASYMMETRIC,
    PACKED_LINEAR_W4A8_GROUPS,
    PACKED_LINEAR_W4A8_GROUPS_ASYMMETRIC,
)
from castline.plugins.linear_w8a8.packed import PACKED_LINEAR_W8A8, PACKED_LINEAR_W8A8_ASYMMETRIC
from castline.plugins.op import PluginOp
from castline.plugins.packed_product import (
    packed_linear,
    packed_linear_asymmetric,
    packed_linear_in_groups,
)
from castline.plugins.packing import pack, pack_scales

Run = Callable[..., list[np.ndarray]]
Product = tuple[PluginOp, list[np.ndarray], np.ndarray]
RANDOM = np.random.default_rng(0)
BITS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}  # of weights, of activations
OPS = {
    ("W8A8", False): PACKED_LINEAR_W8A8,
    ("W8A8", True): PACKED_LINEAR_W8A8_ASYMMETRIC,
    ("W4A8", False): PACKED_LINEAR_W4A8,
    ("W4A8", True): PACKED_LINEAR_W4A8_ASYMMETRIC,
    ("W4A4", False): PACKED_LINEAR_W4A4,
    ("W4A4", True): PACKED_LINEAR_W4A4_ASYMMETRIC,
}
SHAPES = [(64, 16), (48, 7), (144, 33), (16, 1), (576, 40)]


def codes(bits: int, *shape: int) -> np.ndarray:
    return RANDOM.integers(-(1 << bits - 1), 1 << bits - 1, shape).astype(np.int8)


def product(kind: str, k: int, n: int, dtype: type, *, asymmetric: bool) -> Product:
    """Return an op, its inputs, and y by a plain product of what the codes stand for."""
    weight_bits, bits = BITS[kind]
    x, weights = codes(bits, 2, 3, k), codes(weight_bits, n, k)
    x.flat[0] = -(1 << bits - 1)
    zero = codes(bits, 2, 3, 1) if asymmetric else np.zeros((2, 3, 1), np.int8)
    weight_zero = codes(4, n) if weight_bits == 4 else np.zeros(n, np.int8)
    scale = RANDOM.uniform(0.001, 0.1, (2, 3, 1)).astype(np.float32)
    weight_scale, bias = RANDOM.uniform(1e-3, 1e-2, (2, n)).astype(dtype)
    steps = weights.astype(np.int64) - weight_zero[:, None]
    sums = (x.astype(np.int64) - zero) @ steps.T
    scaled = sums.astype(np.float32) * weight_scale.astype(np.float32) * scale
    wanted = (scaled + bias.astype(np.float32)).astype(dtype)
    inputs = [
        x,
        scale,
        *([zero] if asymmetric else []),
        pack(weights, weight_bits),
        weight_scale,
        *([weight_zero] if weight_bits == 4 else []),
        *([steps.sum(1).astype(np.int32)] if asymmetric else []),
        bias,
    ]
    return OPS[kind, asymmetric], inputs, wanted


@pytest.mark.parametrize("asymmetric", [False, True], ids=["around zero", "with zero-points"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("k", "n"), SHAPES)
@pytest.mark.parametrize("kind", list(BITS))
def test_the_body_is_the_product_of_what_the_codes_stand_for(
    run_op: Run, kind: str, k: int, n: int, dtype: type, asymmetric: bool
) -> None:
    op, inputs, wanted = product(kind, k, n, dtype, asymmetric=asymmetric)
    (found,) = run_op(op, *inputs, k=k, n=n, layout_version=1)
    np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize("asymmetric", [False, True], ids=["around zero", "with zero-points"])
@pytest.mark.parametrize("kind", list(BITS))
def test_the_reference_is_the_product_of_what_the_codes_stand_for(
    kind: str, asymmetric: bool
) -> None:
    op, inputs, wanted = product(kind, 144, 33, np.float16, asymmetric=asymmetric)
    given = dict(zip(op.inputs, inputs, strict=True))
    given.setdefault("weight_zero_point", np.zeros(33, np.int8))
    reference = packed_linear_asymmetric if asymmetric else packed_linear
    np.testing.assert_array_equal(reference(**given, bits=BITS[kind][0]), wanted, strict=True)


@pytest.mark.parametrize("asymmetric", [False, True], ids=["around zero", "with zero-points"])
@pytest.mark.parametrize(("k", "n", "block"), [(64, 16, 32), (128, 7, 64), (576, 40, 192)])
def test_groups_are_scaled_as_integers(
    run_op: Run, k: int, n: int, block: int, asymmetric: bool
) -> None:
    x, weights = codes(8, 2, 3, k), codes(4, n, k)
    levels = RANDOM.integers(1, 17, (n, k // block)).astype(np.int8)
    weights[0, 0], levels[0, 0] = -8, 16
    zero = codes(8, 2, 3, 1)
    scale = RANDOM.uniform(0.001, 0.1, (2, 3, 1)).astype(np.float32)
    weight_scale, bias = RANDOM.uniform(1e-3, 1e-2, (2, n)).astype(np.float16)
    steps = weights.astype(np.int64) * levels.repeat(block, axis=1)
    sums = (x.astype(np.int64) - (zero if asymmetric else 0)) @ steps.T
    scaled = sums.astype(np.float32) * weight_scale.astype(np.float32) * scale
    wanted = (scaled + bias.astype(np.float32)).astype(np.float16)

    packed = [pack(weights, 4), pack_scales(levels), weight_scale]
    of_zero_points = [steps.sum(1).astype(np.int32)] if asymmetric else []
    inputs = [x, scale, *([zero] if asymmetric else []), *packed, *of_zero_points, bias]
    op = PACKED_LINEAR_W4A8_GROUPS_ASYMMETRIC if asymmetric else PACKED_LINEAR_W4A8_GROUPS
    (found,) = run_op(op, *inputs, k=k, n=n, block_size=block, layout_version=1)
    np.testing.assert_array_equal(found, wanted, strict=True)
    reference = packed_linear_in_groups(
        x, scale, *packed, bias, zero_point=zero if asymmetric else None
    )
    np.testing.assert_array_equal(reference, wanted, strict=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_saturate(run_op: Run, sign: int) -> None:
    k, one = 4096, np.ones((1, 1), np.float32)
    x, weights = np.full((1, k), -128, np.int8), np.full((16, k), sign * 127, np.int8)
    inputs = [x, one, pack(weights, 8), np.ones(16, np.float32), np.zeros(16, np.float32)]
    (y,) = run_op(PACKED_LINEAR_W8A8, *inputs, k=k, n=16, layout_version=1)
    np.testing.assert_array_equal(y, np.full((1, 16), -128 * sign * 127 * k, np.float32))


def test_every_integer_product_has_a_packed_form_of_its_kind() -> None:
    assert [packed.name for packed in PACKED.values()] == [f"Packed{op.name}" for op in PACKED]
