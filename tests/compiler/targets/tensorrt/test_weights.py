"""Judge by size whether the low-bit weights of an engine stayed low-bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from castline.compiler.targets.tensorrt.weights import WeightBytes, judge_weights, weight_bytes

MIB = 2**20


def test_packed_codes_are_counted_as_stored_and_expanded(
    save_packed: Callable[..., Path],
) -> None:
    beside = 2 * 48 * 2 + 2 * 48 + 48 * 2  # scales, zero-points, bias
    assert weight_bytes(save_packed()) == WeightBytes(
        stored=64 * 48 // 2 + beside, expanded=64 * 48 * 2 + beside
    )


@pytest.mark.parametrize("external", [False, True])
def test_int4_weights_are_counted_as_stored_and_expanded(
    save_linear: Callable[..., Path], external: bool
) -> None:
    model = save_linear(k=64, n=16, block=32, external=external)
    scales = 2 * 16 * 2  # two groups, fp16
    assert weight_bytes(model) == WeightBytes(
        stored=64 * 16 // 2 + scales, expanded=64 * 16 * 2 + scales
    )


def test_float_weights_have_one_size(save_linear: Callable[..., Path]) -> None:
    assert weight_bytes(save_linear(k=64, n=16)) == WeightBytes(stored=2048, expanded=2048)


def test_codes_with_offsets_are_counted_as_stored_and_expanded(
    save_offsets: Callable[..., Path],
) -> None:
    scales_and_offsets = 2 * 2 * 64 * (2 + 4)  # two products of two groups, fp16 and float32
    assert weight_bytes(save_offsets(64, 32)) == WeightBytes(
        stored=2 * 64 * 64 // 2 + scales_and_offsets, expanded=2 * 64 * 64 * 2 + scales_and_offsets
    )


@pytest.fixture
def silent_log(tmp_path: Path) -> Path:
    log = tmp_path / "silent.log"
    log.write_text("[I] Finished engine building\n")
    return log


@pytest.mark.parametrize(
    ("reported", "kept"),
    [(100 * MIB, True), (250 * MIB, True), (251 * MIB, False), (400 * MIB, False)],
)
def test_half_of_the_possible_saving_counts_as_kept(
    tmp_path: Path, reported: int, kept: bool
) -> None:
    log = tmp_path / "build.log"
    log.write_text(f"[V] Total Weights Memory: {reported} bytes\n[I] Finished engine building\n")
    weights = WeightBytes(stored=100 * MIB, expanded=400 * MIB)
    judgement = judge_weights(450 * MIB, weights, log)
    assert (judgement.kept, judgement.held) == (kept, reported)
    assert f"the engine's weights have {reported:,} bytes" in judgement.how


@pytest.mark.parametrize(("engine", "kept"), [(250 * MIB, True), (251 * MIB, False)])
def test_the_engines_size_stands_for_weights_that_were_not_reported(
    silent_log: Path, engine: int, kept: bool
) -> None:
    judgement = judge_weights(engine, WeightBytes(100 * MIB, 400 * MIB), silent_log)
    assert (judgement.kept, judgement.held) == (kept, engine)
    assert f"the engine has {engine:,} bytes" in judgement.how


def test_a_saving_that_an_engines_overhead_can_hide_is_left_open(silent_log: Path) -> None:
    judgement = judge_weights(12 * MIB, WeightBytes(3 * MIB, 10 * MIB), silent_log)
    assert judgement.kept is None
    assert "too close to tell" in judgement.how


def test_a_graph_without_low_bit_weights_is_not_judged(silent_log: Path) -> None:
    judgement = judge_weights(12 * MIB, WeightBytes(10 * MIB, 10 * MIB), silent_log)
    assert judgement.kept is None
    assert judgement.how == "the graph has no low-bit weights"
