"""The instructions that kernels are made of, on the emulator, against PTX's words in numpy."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from castline.plugins.emulation import build_emulated

CALLS = Path(__file__).with_name("instructions.cu")
TYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
LANE = np.arange(32)
G, T = LANE // 4, LANE % 4
RUBBISH = 0xCDCDCDCD


@pytest.fixture(scope="module")
def path(request: pytest.FixtureRequest) -> Path:
    cache = request.config.cache
    assert cache is not None
    return build_emulated(cache.mkdir("emulated-kernels"), also=(CALLS,))


@pytest.fixture(scope="module")
def calls(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("try_byte_permute", "try_fma_pairs", "try_sub_pairs"):
        getattr(library, name).restype = ctypes.c_uint32
    library.castline_last_error.restype = ctypes.c_char_p
    return library


def at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def is_bfloat16(dtype: np.dtype[Any]) -> int:
    return int(dtype != np.float16)


def registers(matrix: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values of one register a lane, those of the lowest column in the lowest bits: [32]."""
    return np.ascontiguousarray(matrix[rows[:, None], columns]).view(np.uint32)[:, 0]


def fragments(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lanes hold of A [16, K] and B [K, 8], as PTX's sections on m16n8k16 and m16n8k32 say."""
    half = a.shape[1] // 2
    columns = T[:, None] * (half // 4) + np.arange(half // 4)
    of_a = [registers(a, G + 8 * (i % 2), columns + half * (i // 2)) for i in range(4)]
    of_b = [registers(b.T, G, columns + half * i) for i in range(2)]
    return np.stack(of_a, 1), np.stack(of_b, 1)


def matrix_of(c: np.ndarray) -> np.ndarray:
    """Return D [16, 8] of what lanes hold of it, [32, 4]."""
    d = np.zeros((16, 8), c.dtype)
    for i in range(4):
        d[G + 8 * (i // 2), 2 * T + i % 2] = c[:, i]
    return d


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_16_bit_pattern_becomes_the_float_it_stands_for(
    calls: ctypes.CDLL, dtype: np.dtype[Any]
) -> None:
    patterns = np.arange(65536).astype(np.uint16)
    wide, ignored = np.zeros(65536, np.float32), np.zeros(65536, np.uint16)
    calls.try_convert(is_bfloat16(dtype), at(patterns), at(wide), at(wide), at(ignored), 65536)
    np.testing.assert_array_equal(wide, patterns.view(dtype).astype(np.float32))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_floats_are_rounded_to_the_nearest_with_ties_to_even(
    calls: ctypes.CDLL, dtype: np.dtype[Any]
) -> None:
    # All upper halves of a float, with lower halves on, below and above ties of either type.
    upper = np.arange(65536, dtype=np.uint32)[:, None] << 16
    lower = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    values = (upper | lower.astype(np.uint32)).ravel().view(np.float32)
    unread, rounded = np.zeros(values.size, np.uint16), np.zeros(values.size, np.uint16)
    wide = np.zeros(values.size, np.float32)
    calls.try_convert(
        is_bfloat16(dtype), at(unread), at(wide), at(values), at(rounded), values.size
    )
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(dtype)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(rounded[numbers], expected.view(np.uint16)[numbers])
    assert np.isnan(rounded.view(dtype)[~numbers].astype(np.float32)).all()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_16_bit_matrices_are_multiplied(calls: ctypes.CDLL, dtype: np.dtype[Any]) -> None:
    random = np.random.default_rng(1)
    a = random.integers(-9, 10, (16, 16)).astype(dtype)
    b = random.integers(-9, 10, (16, 8)).astype(dtype)
    held_a, held_b = fragments(a, b)
    c = np.zeros((32, 4), np.float32)
    assert calls.try_multiply_float(is_bfloat16(dtype), at(held_a), at(held_b), at(c)) == 0
    expected = a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_array_equal(matrix_of(c), expected)


def test_int8_matrices_are_multiplied_and_added(calls: ctypes.CDLL) -> None:
    random = np.random.default_rng(2)
    a = random.integers(-128, 128, (16, 32)).astype(np.int8)
    b = random.integers(-128, 128, (32, 8)).astype(np.int8)
    held_a, held_b = fragments(a, b)
    c = np.zeros((32, 4), np.int32)
    assert calls.try_multiply_integer(at(held_a), at(held_b), at(c)) == 0
    np.testing.assert_array_equal(matrix_of(c), a.astype(np.int32) @ b.astype(np.int32) + 1)


def test_lanes_exchange_values(calls: ctypes.CDLL) -> None:
    values = np.zeros(64, np.int32)
    own = (LANE * 7 % 32 - 40).astype(np.int32)
    values[:32] = own
    assert calls.try_exchange(at(values)) == 0
    np.testing.assert_array_equal(values[:32], 100 * own[LANE ^ 5] + own[(LANE + 1) % 32])
    np.testing.assert_array_equal(values[32:], -9)


def test_a_copy_arrives_when_it_is_waited_for_and_zeros_where_it_is_not_valid(
    calls: ctypes.CDLL,
) -> None:
    source = np.arange(1, 129, dtype=np.uint32)
    words = np.zeros(source.size + 4, np.uint32)
    start = -(words.ctypes.data // 4) % 4  # where 16 bytes are aligned
    words[start : start + source.size] = source
    before, after = np.zeros(32, np.uint32), np.zeros(32, np.uint32)
    assert calls.try_copy(at(words[start:]), at(before), at(after)) == 0
    np.testing.assert_array_equal(before, RUBBISH)
    np.testing.assert_array_equal(after, np.where(LANE % 2 == 0, source[::4], 0))


@pytest.mark.usefixtures("order")
def test_one_block_takes_the_last_ticket_and_leaves_it_zero(calls: ctypes.CDLL) -> None:
    ticket, last = np.zeros(1, np.uint32), np.zeros(5, np.int32)
    assert calls.try_tickets(at(ticket), at(last), 5) == 0
    assert last.sum() == 1
    assert ticket[0] == 0


def test_bytes_are_permuted_and_their_signs_spread(calls: ctypes.CDLL) -> None:
    assert calls.try_byte_permute(0x33221100, 0x77665544, 0x7250) == 0x77225500
    assert calls.try_byte_permute(0x00000080, 0x7F000000, 0x8F08) == 0xFF0080FF


def pair(low: float, high: float, dtype: np.dtype[Any]) -> int:
    return int(np.array([low, high]).astype(dtype).view(np.uint32)[0])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_pairs_are_subtracted(calls: ctypes.CDLL, dtype: np.dtype[Any]) -> None:
    found = calls.try_sub_pairs(is_bfloat16(dtype), pair(5, -8, dtype), pair(7, -8, dtype))
    assert found == pair(-2, 0, dtype)


@pytest.mark.parametrize(
    ("dtype", "a", "b", "tie", "below", "above", "little"),
    # The products, 259 / 256 and 2051 / 2048, are halfway between two values of the type, and a
    # little more or less decides, too little for a double where the type is bfloat16.
    [
        (TYPES[1], 7 / 256, 37, 260 / 256, 258 / 256, 260 / 256, 2.0**-60),
        (TYPES[0], 7 / 2048, 293, 2052 / 2048, 2050 / 2048, 2052 / 2048, 2.0**-24),
    ],
    ids=["bfloat16", "float16"],
)
def test_pairs_are_multiplied_and_added_with_one_rounding(
    calls: ctypes.CDLL,
    dtype: np.dtype[Any],
    a: float,
    b: float,
    tie: float,
    below: float,
    above: float,
    little: float,
) -> None:
    factors = pair(a, a, dtype), pair(b, b, dtype)
    found = calls.try_fma_pairs(is_bfloat16(dtype), *factors, pair(-little, little, dtype))
    assert found == pair(below, above, dtype)
    found = calls.try_fma_pairs(is_bfloat16(dtype), *factors, pair(0, 0, dtype))
    assert found == pair(tie, tie, dtype)


def test_a_forgotten_barrier_is_seen_in_one_of_the_orders(
    calls: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = np.zeros(1, np.uint32)
    calls.try_forgotten_barrier(at(seen), 1)
    assert seen[0] == RUBBISH
    calls.try_forgotten_barrier(at(seen), 0)
    assert seen[0] == 7
    monkeypatch.setenv("CASTLINE_EMULATOR_REVERSE", "1")
    calls.try_forgotten_barrier(at(seen), 0)
    assert seen[0] == RUBBISH


def test_a_block_of_half_a_warp_is_refused(calls: ctypes.CDLL) -> None:
    assert calls.try_half_a_warp() == 1
    assert b"1 x 1 x 1 blocks of 16 threads: a block has whole warps" in calls.castline_last_error()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("try_leave_early()", "block (0, 0, 0): threads wait for others that have ended"),
        ("try_disagree()", "block (0, 0, 0): threads that must meet do different things"),
        ("try_unaligned(ctypes.create_string_buffer(64))", "misaligned address"),
    ],
)
def test_what_would_hang_or_fault_on_a_gpu_ends_the_process_with_a_sentence(
    path: Path, call: str, reason: str
) -> None:
    code = f"import ctypes; ctypes.CDLL({str(path)!r}).{call}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert reason in done.stderr
