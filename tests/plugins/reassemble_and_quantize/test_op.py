"""Reassembling and quantizing at once is one after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from castline.plugins.quantize_per_token.op import quantize_per_token, quantize_per_token_asymmetric
from castline.plugins.reassemble_and_quantize.op import (
    REASSEMBLE_AND_QUANTIZE,
    REASSEMBLE_AND_QUANTIZE_ASYMMETRIC,
    reassemble_and_quantize,
    reassemble_and_quantize_asymmetric,
)
from castline.plugins.reassemble_channels.op import reassemble_channels

Run = Callable[..., list[np.ndarray]]
RANDOM = np.random.default_rng(0)
K = 48


def channels(dtype: type) -> tuple[np.ndarray, ...]:
    """Return gather, scale, place, channel and channel_scale; indices are of the type."""
    place = np.sort(RANDOM.integers(0, K, 5))
    return (
        RANDOM.integers(0, K, K).astype(dtype),
        RANDOM.uniform(0.2, 1, K).astype(np.float32),
        place.astype(dtype),
        RANDOM.integers(0, K, 5).astype(dtype),
        RANDOM.uniform(0.2, 1, 5).astype(np.float32),
    )


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_it_is_one_after_the_other(run_op: Run, dtype: type, index: type, bits: int) -> None:
    x, parts = RANDOM.standard_normal((2, 3, K)).astype(dtype), channels(index)
    between = reassemble_channels(x, *parts)
    assert between.dtype == dtype, "it is rounded between"
    wanted = quantize_per_token(between, bits)
    for found in (
        reassemble_and_quantize(x, *parts, bits=bits),
        run_op(REASSEMBLE_AND_QUANTIZE, x, *parts, bits=bits),
    ):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
    wanted_asymmetric = quantize_per_token_asymmetric(between, bits)
    for three in (
        reassemble_and_quantize_asymmetric(x, *parts, bits=bits),
        run_op(REASSEMBLE_AND_QUANTIZE_ASYMMETRIC, x, *parts, bits=bits),
    ):
        for one, other in zip(three, wanted_asymmetric, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
