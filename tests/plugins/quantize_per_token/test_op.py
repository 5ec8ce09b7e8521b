"""Each token is quantized by its own range, and the body does what the reference says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from castline.plugins.quantize_per_token.op import (
    QUANTIZE_PER_TOKEN,
    QUANTIZE_PER_TOKEN_ASYMMETRIC,
    quantize_per_token,
    quantize_per_token_asymmetric,
)

Run = Callable[..., list[np.ndarray]]
SMALL = float(np.finfo(np.float32).smallest_subnormal)


def tokens(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return activations whose tokens differ by orders of magnitude, some of one sign."""
    random = np.random.default_rng(0)
    x = random.standard_normal(shape) * 10 ** random.uniform(-3, 3, (*shape[:-1], 1))
    x[..., 0, :] = np.abs(x[..., 0, :])
    return x.astype(dtype)


def test_the_codes_of_a_token_are_multiples_of_its_largest_value() -> None:
    codes, scale = quantize_per_token(np.array([[127.0, -2.5, 3.5], [-8, 4, 2]], np.float32), 8)
    np.testing.assert_array_equal(codes, [[127, -2, 4], [-127, 64, 32]])
    np.testing.assert_allclose(scale, [[1], [8 / 127]], rtol=1e-7)


def test_zero_points_move_a_token_of_one_sign_over_all_codes() -> None:
    codes, scale, zero = quantize_per_token_asymmetric(
        np.array([[0, 255, 1], [-255, 0, -1], [-128, 127, 0]], np.float32), 8
    )
    np.testing.assert_array_equal(codes, [[-128, 127, -127], [-128, 127, 126], [-128, 127, 0]])
    np.testing.assert_array_equal(scale, [[1], [1], [1]])
    np.testing.assert_array_equal(zero, [[-128], [127], [0]])


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 33), (1, 1, 1), (2, 1, 4, 7)], ids=str)
def test_the_body_is_the_reference(
    run_op: Run, shape: tuple[int, ...], dtype: type, bits: int
) -> None:
    x = tokens(shape, dtype)
    for found, wanted in zip(
        run_op(QUANTIZE_PER_TOKEN, x, bits=bits), quantize_per_token(x, bits), strict=True
    ):
        np.testing.assert_array_equal(found, wanted, strict=True)
    for found, wanted in zip(
        run_op(QUANTIZE_PER_TOKEN_ASYMMETRIC, x, bits=bits),
        quantize_per_token_asymmetric(x, bits),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted, strict=True)


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("value", [0.0, 1e30, -3e38, 1e-30, SMALL, -SMALL])
def test_extremes_stand_for_themselves(run_op: Run, value: float, bits: int) -> None:
    x = np.array([[value, 0, value / 2]], np.float32)
    codes, scale = run_op(QUANTIZE_PER_TOKEN, x, bits=bits)
    largest = 2 ** (bits - 1) - 1
    assert np.isfinite(scale).all()
    assert abs(int(codes[0, 0])) == (largest if abs(value) >= 1e-30 else 0)
    np.testing.assert_allclose(codes[0, 0] * scale[0, 0], value, rtol=1e-6, atol=1e-37)
    codes, scale, zero = run_op(QUANTIZE_PER_TOKEN_ASYMMETRIC, x, bits=bits)
    assert codes[0, 1] == zero[0, 0], "zero has a code"
    back = (np.float32(codes) - zero) * scale
    np.testing.assert_allclose(back[0, 0], value, rtol=1e-6, atol=1e-37)


def test_largest_float16_does_not_overflow(run_op: Run) -> None:
    x = np.array([[65504, -65504, 1]], np.float16)
    codes, scale = run_op(QUANTIZE_PER_TOKEN, x, bits=8)
    np.testing.assert_array_equal(codes, [[127, -127, 0]])
    np.testing.assert_allclose(scale, 65504 / 127, rtol=1e-6)
