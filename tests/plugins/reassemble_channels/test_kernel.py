"""plugins/reassemble_channels/kernel.cu on the emulator: bit for bit what the ops say."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from castline.errors import PluginError
from castline.plugins.array_kernels import ArrayKernels
from castline.plugins.reassemble_channels.op import reassemble_channels
from castline.plugins.run_time_grid import quantize_asymmetric, quantize_symmetric

TYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
# Tokens, channels, extras: one; less than a vector; more extras than threads; two, three and eight
# vectors a thread, and a last one that is not full; no extras.
SHAPES = [(2, 1, 1), (2, 13, 5), (2, 256, 200), (2, 4104, 300), (1, 9000, 900), (1, 32768, 3277)]
SHAPES += [(2, 64, 0)]


def channels(k: int, extras: int) -> tuple[np.ndarray, ...]:
    """Return gather, scale, place, channel, channel_scale; some places have more than one extra."""
    random = np.random.default_rng(k + extras)
    gather = random.integers(0, k, k).astype(np.int32)
    scale = random.choice([1, 0.5, 1 / 3], k).astype(np.float32)
    place = np.sort(random.integers(0, k, extras)).astype(np.int32)
    channel = random.integers(0, k, extras).astype(np.int32)
    return gather, scale, place, channel, random.standard_normal(extras).astype(np.float32)


def tokens(m: int, k: int, dtype: np.dtype[Any]) -> np.ndarray:
    return (np.random.default_rng(m + k).standard_normal((m, k)) * 20).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("m", "k", "extras"), SHAPES)
@pytest.mark.usefixtures("order")
def test_channels_are_taken_apart_and_put_together(
    emulated: ArrayKernels, m: int, k: int, extras: int, dtype: np.dtype[Any]
) -> None:
    x, sources = tokens(m, k, dtype), channels(k, extras)
    y = emulated.reassemble(x, *sources)
    expected = reassemble_channels(x, *sources)
    np.testing.assert_array_equal(y.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("m", "k", "extras"), SHAPES)
@pytest.mark.usefixtures("order")
def test_they_are_quantized_as_if_written_between(
    emulated: ArrayKernels, m: int, k: int, extras: int, dtype: np.dtype[Any]
) -> None:
    x, sources = tokens(m, k, dtype), channels(k, extras)
    between = reassemble_channels(x, *sources)
    codes, scale, _ = emulated.reassemble_quantize(x, *sources, bits=8, symmetric=True)
    expected = quantize_symmetric(between, 8, -1)
    np.testing.assert_array_equal(scale, expected[1])
    np.testing.assert_array_equal(codes, expected[0])
    found = emulated.reassemble_quantize(x, *sources, bits=4, symmetric=False)
    for array, same in zip(found, quantize_asymmetric(between, 4, -1), strict=True):
        np.testing.assert_array_equal(array, same)


def test_extras_of_a_place_are_added_in_their_order(emulated: ArrayKernels) -> None:
    # In float32, (1 + 2^24) - 2^24 is 0, and 1 + (2^24 - 2^24) is 1.
    x = np.array([[1, 4096, -4096, 0]], np.float16)
    own, ones = np.arange(4, dtype=np.int32), np.ones(4, np.float32)
    place, channel = np.array([0, 0], np.int32), np.array([1, 2], np.int32)
    y = emulated.reassemble(x, own, ones, place, channel, np.full(2, 4096, np.float32))
    assert y[0].tolist() == [0, 4096, -4096, 0]


def test_extras_read_the_channels_and_not_what_has_been_placed(emulated: ArrayKernels) -> None:
    x = np.array([[1, 2, 3, 4, 5, 6, 7, 8]], np.float16)
    gather = np.arange(8, dtype=np.int32)[::-1].copy()
    place, channel = np.array([0, 7], np.int32), np.array([7, 0], np.int32)
    y = emulated.reassemble(
        x, gather, np.ones(8, np.float32), place, channel, np.full(2, 10, np.float32)
    )
    assert y[0].tolist() == [88, 7, 6, 5, 4, 3, 2, 11]


def test_rows_of_any_alignment_are_read(emulated: ArrayKernels) -> None:
    memory, sources = np.empty(2 * 16 + 8, np.float16), channels(16, 4)
    for start in range(8):
        x = memory[start : start + 32].reshape(2, 16)
        x[:] = tokens(2, 16, TYPES[0])
        np.testing.assert_array_equal(
            emulated.reassemble(x, *sources), reassemble_channels(x, *sources)
        )


def test_what_cannot_be_computed_is_refused(emulated: ArrayKernels) -> None:
    x = np.zeros((1, 8), np.float16)
    with pytest.raises(PluginError, match="ReassembleChannels: 9 channels to add to 8"):
        emulated.reassemble(x, *channels(8, 2)[:2], *channels(8, 9)[2:])
    wide = np.zeros((1, 32768), np.float16)
    with pytest.raises(PluginError, match="32768 channels and 16385 to add: a block has room for"):
        emulated.reassemble(wide, *channels(32768, 16385))
    with pytest.raises(PluginError, match="ReassembleAndQuantize: codes of 1 bits"):
        emulated.reassemble_quantize(x, *channels(8, 2), bits=1, symmetric=True)
