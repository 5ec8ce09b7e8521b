"""An engine reads as much of the text as one of its profiles takes, in inputs of its own form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from castline.compiler.check.engine_reading import (
    BuiltEngine,
    Reading,
    built_engine,
    engine_reading,
)
from castline.compiler.check.model_kind import named_model
from castline.compiler.targets.tensorrt.shape_flags import Shapes

TOKENS = {
    "input_ids": np.arange(1, 33).reshape(2, 16),
    "attention_mask": np.ones((2, 16), np.int64),
}


def profile(
    batch: tuple[int, int] = (1, 4),
    sequence: tuple[int, int] = (1, 512),
    past: tuple[int, int] = (0, 1024),
    *,
    capacity: int | None = None,
) -> dict[str, Shapes]:
    """Return the shapes of a decoder's inputs; with a capacity, of one whose caches are fixed."""
    total = (sequence[0] + past[0], sequence[1] + past[1])
    if capacity is not None:
        past = total = (capacity, capacity)
    ranges: dict[str, tuple[tuple[int, int], ...]] = {
        "input_ids": (batch, sequence),
        "attention_mask": (batch, total),
        "past_key_values.0.key": (batch, (2, 2), past, (8, 8)),
    }
    if capacity is not None:
        ranges["write_indices"] = (batch,)
    found = {}
    for name, sizes in ranges.items():
        least, most = (tuple(one) for one in zip(*sizes, strict=True))
        found[name] = Shapes(least, most, most)
    return found


def engine(*profiles: dict[str, Shapes]) -> BuiltEngine:
    return BuiltEngine(Path("model.engine"), is_rtx=True, plugins=None, profiles=profiles)


def test_reads_all_of_the_text_under_the_profile_for_prompts() -> None:
    decode, prefill = profile(sequence=(1, 1)), profile()
    assert engine_reading(engine(prefill, decode), TOKENS) == Reading(0, 2, 16)
    assert engine_reading(engine(decode, prefill), TOKENS) == Reading(1, 2, 16)


def test_reads_the_beginning_where_an_engine_takes_less() -> None:
    found = engine_reading(engine(profile(batch=(1, 1), sequence=(1, 6))), TOKENS)
    assert found == Reading(0, 1, 6)
    assert isinstance(found, Reading)
    assert found.tokens_of(TOKENS)["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6]]


def test_one_row_is_read_into_a_fixed_cache() -> None:
    assert engine_reading(engine(profile(capacity=40)), TOKENS) == Reading(0, 1, 16, capacity=40)
    two = engine_reading(engine(profile(batch=(2, 4), capacity=40)), TOKENS)
    assert two == Reading(0, 2, 16, capacity=40)
    small = engine_reading(engine(profile(sequence=(1, 64), capacity=8)), TOKENS)
    assert small == Reading(0, 1, 8, capacity=8)


def test_a_fixed_cache_and_its_mask_are_as_long_as_the_capacity() -> None:
    graph = {
        "input_ids": np.array([[5, 6, 7]]),
        "attention_mask": np.array([[1, 1, 1]]),
        "position_ids": np.array([[0, 1, 2]]),
        "write_indices": np.array([0]),
        "past_key_values.0.key": np.ones((1, 2, 3, 8), np.float16),
    }
    found = Reading(0, 1, 3, capacity=5).inputs_of(graph)
    assert found["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]
    past = found["past_key_values.0.key"]
    assert (past.shape, past.dtype) == ((1, 2, 5, 8), np.float16)
    assert past[:, :, 3:].any() == np.False_
    for name in ("input_ids", "position_ids", "write_indices"):
        assert found[name].tolist() == graph[name].tolist()
    assert Reading(0, 1, 3).inputs_of(graph) == graph


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (profile(batch=(4, 8)), "takes batch 4 to 8"),
        (profile(sequence=(32, 64)), "sequence 32 to 64"),
        (profile(sequence=(1, 1), past=(1, 64)), "past 1 to 64"),
        (profile(sequence=(32, 64), capacity=64), "sequence 32 to 64"),
    ],
)
def test_says_why_an_engine_cannot_read_the_text(shapes: dict[str, Shapes], words: str) -> None:
    found = engine_reading(engine(shapes), TOKENS)
    assert isinstance(found, str)
    assert words in found
    assert "the beginning of the text is batch 2, sequence 16, past 0" in found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model.onnx", "model.engine"):
        (tmp_path / name).write_bytes(b"content")
    return tmp_path


def told(folder: Path, **facts: Any) -> BuiltEngine | str | None:
    """Return what is read of an engine that a manifest says this of."""
    build = {"engine": "model.engine", "edition": "tensorrt"} | facts
    return built_engine(named_model(folder), {"build": build}, folder / "plugins.so")


def test_reads_what_the_manifest_says_of_an_engine(folder: Path) -> None:
    written = {"input_ids": [[1, 1], [1, 8], [4, 8]]}
    found = told(folder, profiles=[written], logits="last")
    shapes = {"input_ids": Shapes((1, 1), (1, 8), (4, 8))}
    assert found == BuiltEngine(
        folder / "model.engine",
        is_rtx=False,
        plugins=folder / "plugins.so",
        profiles=(shapes,),
        last_logits=True,
    )


def test_says_why_no_command_can_run_an_engine(folder: Path) -> None:
    profiles = [{"input_ids": [[1, 1], [1, 8], [4, 8]]}]
    stripped = told(folder, profiles=profiles, weights_stripped=True)
    assert isinstance(stripped, str)
    assert f"castline build {folder} --refit" in stripped
    unknown = built_engine(named_model(folder), {}, None)
    assert isinstance(unknown, str)
    assert "no manifest.json" in unknown


def test_a_graph_alone_has_no_engine(folder: Path) -> None:
    (folder / "model.engine").unlink()
    assert built_engine(named_model(folder), {}, None) is None
