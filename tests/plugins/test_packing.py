"""The packed layout: nothing lost, every code where the drawing says, and as C++ reads it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castline.plugins import packing
from castline.plugins.packing import pack, pack_scales, packed_shape, unpack, unpack_scales

TWIN = """
#include "layout.h"
using namespace castline;
extern "C" long long byte_of(int bits, long long n, long long k, long long blocks) {
    return bits == 4 ? byte_of_4(place_of(n, k), blocks) : byte_of_8(place_of(n, k), blocks);
}
extern "C" int is_upper(long long n) { return place_of(n, 0).upper; }
extern "C" long long scale_of(long long n, long long group, long long groups) {
    return element_of_scale(n, group, groups);
}
extern "C" int version() { return kLayoutVersion; }
"""

SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 200))


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the layout of the kernels, compiled for the host."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("twin")
    (folder / "twin.cpp").write_text(TWIN)
    common = Path(packing.__file__).parent / "common"
    command = [compiler, "-std=c++17", "-shared", "-fPIC", f"-I{common}", "twin.cpp", "-o"]
    subprocess.run([*command, "twin.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "twin.so"))
    library.byte_of.argtypes = [ctypes.c_int, *[ctypes.c_longlong] * 3]
    library.scale_of.argtypes = [ctypes.c_longlong] * 3
    library.is_upper.argtypes = [ctypes.c_longlong]
    library.byte_of.restype = library.scale_of.restype = ctypes.c_longlong
    return library


def codes_of(shape: tuple[int, int], bits: int) -> np.ndarray:
    low = -(1 << (bits - 1))
    return np.random.default_rng(0).integers(low, -low, shape).astype(np.int8)


@given(SHAPES, st.sampled_from([4, 8]))
def test_unpacking_gives_back_every_code(shape: tuple[int, int], bits: int) -> None:
    codes = codes_of(shape, bits)
    packed = pack(codes, bits)
    assert packed.shape == packed_shape(*shape, bits)
    assert np.array_equal(unpack(packed, *shape, bits), codes)


@given(SHAPES)
def test_what_is_padded_is_zero(shape: tuple[int, int]) -> None:
    packed = pack(np.full(shape, 7, np.int8), 8)
    assert int(packed.astype(np.int64).sum()) == 7 * shape[0] * shape[1]


@given(st.tuples(st.integers(1, 70), st.integers(1, 5)))
def test_unpacking_gives_back_every_scale(shape: tuple[int, int]) -> None:
    scales = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    packed = pack_scales(scales)
    assert packed.shape == (-(-shape[0] // 16), shape[1], 16)
    assert np.array_equal(unpack_scales(packed, shape[0]), scales)


def test_a_block_of_4_bits_has_its_golden_bytes() -> None:
    codes = np.zeros((16, 64), np.int8)
    codes[0, :4] = [1, 2, 3, 4]  # lane 0, half 0, word 0
    codes[8, 0] = -1  # the same byte, high
    codes[1, 8] = 5  # row 1, quad 1: lane 5
    codes[15, 63] = -8  # row 7, quad 3: lane 31, half 1, word 1, place 3, high
    expected = np.zeros(512, np.uint8)
    expected[:4] = [0xF1, 0x02, 0x03, 0x04]
    expected[16 * 5] = 0x05
    expected[511] = 0x80
    assert np.array_equal(pack(codes, 4).view(np.uint8).ravel(), expected)


def test_a_block_of_8_bits_has_its_golden_bytes() -> None:
    codes = np.zeros((16, 64), np.int8)
    codes[0, 0], codes[8, 0] = 11, 22  # words of rows 0 and 8 stand side by side
    codes[0, 4] = 33  # word 1
    codes[2, 32 + 8] = 44  # half 1, row 2, quad 1: lane 9
    expected = np.zeros(1024, np.int8)
    expected[[0, 4, 8, 512 + 16 * 9]] = [11, 22, 33, 44]
    assert np.array_equal(pack(codes, 8).ravel(), expected)


def test_all_codes_of_4_bits_keep_their_values() -> None:
    codes = np.tile(np.arange(-8, 8, dtype=np.int8), (16, 4))
    assert np.array_equal(unpack(pack(codes, 4), 16, 64, 4), codes)


def test_a_code_beyond_4_bits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"-8\.\.7, not 0\.\.8"):
        pack(np.array([[0, 8]], np.int8), 4)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_kernels_find_every_code_where_numpy_puts_it(twin: ctypes.CDLL, bits: int) -> None:
    shape = (37, 150)
    codes = codes_of(shape, bits)
    packed = pack(codes, bits)
    flat, blocks = packed.ravel(), packed.shape[1]
    for n, k in np.ndindex(shape):
        byte = int(flat[twin.byte_of(bits, n, k, blocks)])
        if bits == 4:
            byte = byte >> 4 if twin.is_upper(n) else ((byte & 15) ^ 8) - 8
        assert byte == codes[n, k]


def test_the_kernels_find_every_scale_where_numpy_puts_it(twin: ctypes.CDLL) -> None:
    scales = np.arange(37 * 3, dtype=np.float32).reshape(37, 3)
    flat = pack_scales(scales).ravel()
    for n, group in np.ndindex(scales.shape):
        assert flat[twin.scale_of(n, group, 3)] == scales[n, group]


def test_both_say_the_same_version(twin: ctypes.CDLL) -> None:
    assert twin.version() == packing.LAYOUT_VERSION
