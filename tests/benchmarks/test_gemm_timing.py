"""Check what of the timing needs no GPU."""

from __future__ import annotations


def test_the_median_is_of_all_runs_and_the_spread_of_repeats() -> None:
    from gemm_timing import summary

    found = summary([[1.0, 2.0, 9.0], [3.0, 3.0, 3.0], [4.0, 5.0, 6.0]])
    assert (found.us, found.fastest_us, found.slowest_us) == (3.0, 2.0, 5.0)


def test_as_many_weights_are_rotated_as_no_cache_holds() -> None:
    from gemm_timing import ROTATED_BYTES, copies_of

    assert copies_of(30_000_000) * 30_000_000 >= ROTATED_BYTES
    assert copies_of(10**9) == 2
