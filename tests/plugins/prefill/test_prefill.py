"""Check that packed weights are expanded to matrices and multiplied, on the emulator."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from castline.plugins.binding import _Integer as Integer
from castline.plugins.binding import _Product as Product
from castline.plugins.binding import _Scratch as Scratch
from castline.plugins.binding import _WeightOnly as WeightOnly
from castline.plugins.packing import pack, pack_scales

Array = np.ndarray
ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("plugins/prefill/kernel.cu", "plugins/common/errors.cpp")
FLAGS = (
    *("-shared", "-fPIC", "-std=c++17", "-O1", "-ffp-contract=off"),
    *("-fsanitize=undefined", "-fno-sanitize-recover"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-x", "c++"),
)
TYPES = {0: np.dtype(np.float16), 1: np.dtype(ml_dtypes.bfloat16)}
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    built = tmp_path_factory.mktemp("prefill") / "prefill.so"
    files = [str(ROOT / name) for name in SOURCES] + [str(Path(__file__).with_name("entry.cpp"))]
    subprocess.run(["g++", *FLAGS, *files, "-o", str(built)], check=True)
    found = ctypes.CDLL(str(built))
    found.bytes.restype = ctypes.c_size_t
    found.takes.restype = ctypes.c_bool
    return found


def address(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data


def call(
    function: Callable[..., int], what: ctypes.Structure, matrix: Array, room: int | None = None
) -> int:
    """Run a product with `matrix` as its scratch memory, or the first `room` bytes of it."""
    size = matrix.nbytes if room is None else room
    scratch = Scratch(matrix.ctypes.data, size, None, 0)
    return function(ctypes.byref(what), ctypes.byref(scratch))


def random_codes(n: int, k: int, bits: int) -> Array:
    most = 1 << (bits - 1)
    return np.random.default_rng(n + k).integers(-most, most, (n, k)).astype(np.int8)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("offsets_kind", [0, 1], ids=["zero-points", "offsets"])
@pytest.mark.parametrize(("n", "k", "group"), [(24, 80, 32), (16, 64, 64), (8, 144, 144)])
def test_a_weight_of_groups_is_expanded_to_the_nearest_values(
    library: ctypes.CDLL, kind: int, offsets_kind: int, n: int, k: int, group: int
) -> None:
    rng, dtype, m = np.random.default_rng(0), TYPES[kind], 257
    groups = -(-k // group)
    codes = random_codes(n, k, 4)
    scales = rng.uniform(0.01, 0.1, (n, groups)).astype(dtype)
    if offsets_kind:
        offsets = rng.normal(0, 0.1, (n, groups)).astype(np.float32)
    else:
        offsets = rng.integers(-128, 128, (n, groups)).astype(np.int8)
    of_k = np.arange(k) // group
    wide = scales.astype(np.float32)[:, of_k]
    if offsets_kind:
        weight = (codes * wide + offsets[:, of_k]).astype(dtype)
    else:
        weight = ((codes - offsets[:, of_k].astype(np.float32)) * wide).astype(dtype)
    x, bias = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=n).astype(dtype)
    y, matrix = np.full((m, n), np.nan, dtype), np.full((n, k), np.nan, dtype)
    packed, of_groups, shifts = pack(codes, 4), pack_scales(scales), pack_scales(offsets)
    what = WeightOnly(
        Product(m, n, k, kind, 4, group),
        *map(address, (x, packed, of_groups, shifts)),
        offsets_kind,
        address(bias),
        address(y),
    )
    assert call(library.weight_only, what, matrix) == 0
    np.testing.assert_array_equal(matrix.view(np.int16), weight.view(np.int16))
    exact = x.astype(np.float64) @ weight.astype(np.float64).T + bias.astype(np.float64)
    np.testing.assert_allclose(
        y.astype(np.float64), exact, rtol=2.0**-7 if kind else 2.0**-10, atol=1e-4
    )


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("asymmetric", [False, True], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
def test_integer_weights_are_expanded_and_multiplied_exactly(
    library: ctypes.CDLL, kind: int, asymmetric: bool, bits: int
) -> None:
    rng, dtype, (m, n, k) = np.random.default_rng(1), TYPES[kind], (257, 24, 80)
    codes = random_codes(n, k, bits)
    shifts = rng.integers(-8, 8, n).astype(np.int8) if bits == 4 else None
    weight = codes if shifts is None else codes - shifts[:, None]
    x = rng.integers(-128, 128, (m, k)).astype(np.int8)
    scale = rng.uniform(0.001, 0.1, m).astype(np.float32)
    zero_point = rng.integers(-128, 128, m).astype(np.int8) if asymmetric else None
    sums = weight.sum(1, dtype=np.int32) if asymmetric else None
    weight_scale = rng.uniform(0.01, 0.1, n).astype(dtype)
    bias = rng.normal(size=n).astype(dtype)
    y, matrix = np.full((m, n), np.nan, dtype), np.full((n, k), 99, np.int8)
    packed = pack(codes, bits)
    what = Integer(
        Product(m, n, k, kind, bits, k),
        *map(address, (x, scale, zero_point, packed, weight_scale, shifts, sums, bias, y)),
    )
    assert call(library.integer, what, matrix) == 0
    np.testing.assert_array_equal(matrix, weight)
    shifted = x.astype(np.int32) - (0 if zero_point is None else zero_point[:, None].astype(int))
    exact = (shifted @ weight.T.astype(np.int32)).astype(np.float32)
    expected = (exact * weight_scale.astype(np.float32)) * scale[:, None] + bias.astype(np.float32)
    np.testing.assert_array_equal(y.view(np.int16), expected.astype(dtype).view(np.int16))


@pytest.mark.parametrize(
    ("m", "n", "k", "taken"),
    [(257, 8, 16, True), (256, 8, 16, False), (257, 12, 16, False), (257, 8, 24, False)],
)
def test_takes_many_tokens_of_shapes_that_16_byte_accesses_fit(
    library: ctypes.CDLL, m: int, n: int, k: int, taken: bool
) -> None:
    shape = Product(m, n, k, 0, 4, k)
    assert library.takes(ctypes.byref(shape), 0) == taken
    assert library.takes(ctypes.byref(shape), 1) == taken


def test_scratch_memory_holds_the_expanded_weight(library: ctypes.CDLL) -> None:
    shape = Product(1, 32, 48, 0, 4, 48)
    assert library.bytes(ctypes.byref(shape), 0) == 32 * 48 * 2
    assert library.bytes(ctypes.byref(shape), 1) == 32 * 48


def test_too_little_scratch_memory_is_refused_before_anything_is_written(
    library: ctypes.CDLL,
) -> None:
    matrix = np.zeros((8, 16), np.int8)
    what = Integer(shape=Product(257, 8, 16, 0, 8, 16))
    assert call(library.integer, what, matrix, room=127) != 0
    assert not matrix.any()
