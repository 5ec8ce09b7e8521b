from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.converted import ConvertedReader, Made, Part
from castline.exporters.readers.tensors import TensorSpec

ARRAYS = {f"expert.{e}": np.full((2, 3), e, np.float32) for e in range(3)}
FLOAT = np.dtype(np.float32)


class Memory:
    """Arrays as a reader hands them out, counted."""

    files = (Path("a"), Path("b"))
    tensors = {name: TensorSpec(a.shape, a.dtype) for name, a in ARRAYS.items()}  # noqa: RUF012

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()

    def read(self, name: str) -> np.ndarray:
        self.reads[name] += 1
        return ARRAYS[name]

    def file_of(self, name: str) -> Path:
        return Path(f"of {name}")


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def reader(memory: Memory) -> ConvertedReader:
    parts = tuple(Part((name,), lambda arrays: arrays[0][np.newaxis]) for name in ARRAYS)
    pair = Part(("expert.1", "expert.0"), np.concatenate)
    checkpoint = Checkpoint("memory", cast(Any, None), memory, cast(Any, None), None)
    return ConvertedReader(
        checkpoint,
        {
            "renamed": Made(TensorSpec((2, 3), FLOAT), (Part(("expert.2",)),)),
            "stack": Made(TensorSpec((3, 2, 3), FLOAT), parts),
            "pair": Made(TensorSpec((4, 3), FLOAT), (pair,)),
        },
    )


def test_it_shows_what_is_made_in_the_files_of_what_it_is_made_of(reader: ConvertedReader) -> None:
    assert reader.tensors["stack"] == TensorSpec((3, 2, 3), FLOAT)
    assert reader.files == (Path("a"), Path("b"))
    assert reader.file_of("pair") == Path("of expert.1")


def test_a_tensor_under_another_name_is_not_copied(reader: ConvertedReader) -> None:
    assert reader.read("renamed") is ARRAYS["expert.2"]


def test_parts_follow_one_another_on_the_first_axis(reader: ConvertedReader) -> None:
    np.testing.assert_array_equal(reader.read("stack"), np.stack(list(ARRAYS.values())))


def test_sources_come_in_the_order_of_the_part(reader: ConvertedReader) -> None:
    np.testing.assert_array_equal(reader.read("pair")[:, 0], [1, 1, 0, 0])


def test_a_part_is_read_when_it_is_due(reader: ConvertedReader, memory: Memory) -> None:
    parts = reader.parts("stack")
    assert not memory.reads
    next(parts)
    assert memory.reads == {"expert.0": 1}
    assert [part.shape for part in parts] == [(1, 2, 3)] * 2


@pytest.mark.parametrize("name", ["renamed", "stack", "pair"])
def test_rows_are_those_of_the_whole(reader: ConvertedReader, name: str) -> None:
    chosen = np.array([1, 0, 1])
    np.testing.assert_array_equal(reader.rows_of(name)(chosen), reader.read(name)[chosen])
