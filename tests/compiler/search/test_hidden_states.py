"""Hidden states come back from the disk as they went there, and are there when they are whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from castline.compiler.search.hidden_states import HiddenStates, HiddenStatesWriter
from castline.errors import OutputError

STATES = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


def written(path: Path) -> HiddenStates:
    with HiddenStatesWriter(path, 5, 3) as writer:
        for begin in (0, 2, 4):
            writer.append(STATES[begin : begin + 2])
    return HiddenStates(path)


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
def test_batches_of_any_size_are_what_was_written(tmp_path: Path, rows: int) -> None:
    states = written(tmp_path / "s.npy")
    batches = list(states.batches(rows))
    assert [len(batch) for batch in batches[:-1]] == [rows] * (len(batches) - 1)
    assert torch.equal(torch.cat(batches), STATES)
    assert states.shape == (5, 3, 4)


def test_they_are_kept_in_float32_whatever_the_model_computes_in(tmp_path: Path) -> None:
    with HiddenStatesWriter(tmp_path / "s.npy", 1, 3) as writer:
        writer.append(STATES[:1].bfloat16())
    (found,) = HiddenStates(tmp_path / "s.npy").batches(1)
    assert found.dtype == torch.float32
    assert torch.equal(found, STATES[:1].bfloat16().float())


def test_a_batch_may_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    states = written(tmp_path / "s.npy")
    next(states.batches(5)).zero_()
    assert torch.equal(next(states.batches(5)), STATES)


def test_nothing_is_there_before_all_is_written(tmp_path: Path) -> None:
    with HiddenStatesWriter(tmp_path / "s.npy", 5, 3) as writer:
        writer.append(STATES[:4])
        assert not (tmp_path / "s.npy").exists()
        writer.append(STATES[4:])
    assert [path.name for path in tmp_path.iterdir()] == ["s.npy"]


def test_what_was_there_stays_when_a_run_ends_early(tmp_path: Path) -> None:
    states = written(tmp_path / "s.npy")

    def interrupted() -> None:
        with HiddenStatesWriter(states.path, 5, 3) as writer:
            writer.append(torch.zeros(2, 3, 4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["s.npy"]
    assert torch.equal(next(states.batches(5)), STATES)


def test_it_may_be_read_while_it_is_replaced(tmp_path: Path) -> None:
    states = written(tmp_path / "s.npy")
    with HiddenStatesWriter(states.path, 5, 3) as writer:
        for batch in states.batches(2):
            writer.append(2 * batch)
    assert torch.equal(next(states.batches(5)), 2 * STATES)


def test_fewer_samples_than_promised_are_noticed(tmp_path: Path) -> None:
    def short() -> None:
        with HiddenStatesWriter(tmp_path / "s.npy", 5, 3) as writer:
            writer.append(STATES[:2])

    with pytest.raises(AssertionError, match="5 samples promised, 2 written"):
        short()


def test_a_full_disk_is_told_before_the_first_value_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def no_room(_file: int, _begin: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(OutputError, match="the disk is full"):
        written(tmp_path / "s.npy")
    assert len(asked) == 1
    assert asked[0] > STATES.numel() * np.dtype(np.float32).itemsize
    assert list(tmp_path.iterdir()) == []
