"""What cannot be written is said in words, with the way to go on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from castline.compiler.plan.disk import refusing_full_disk, reserve
from castline.errors import OutputError


def failing(folder: Path, number: int) -> None:
    with refusing_full_disk(folder):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_tells_that_what_was_finished_is_kept(tmp_path: Path, number: int) -> None:
    with pytest.raises(OutputError, match=r"the disk is full. .* is kept: make room") as refused:
        failing(tmp_path / "plan", number)
    assert str(refused.value).startswith(f"{tmp_path / 'plan'}: ")


def test_what_else_is_wrong_is_told_by_the_systems_words(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written \(Permission denied\)"):
        failing(tmp_path, errno.EACCES)


def test_errors_that_are_not_of_the_disk_pass() -> None:
    def wrong() -> None:
        with refusing_full_disk(Path("plan")):
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        wrong()


def test_reserved_room_is_taken_from_the_disk_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    reserve(path, 1 << 20)
    found = path.stat()
    assert found.st_size == 1 << 20
    assert found.st_blocks * 512 >= 1 << 20
    assert path.read_bytes()[:4] == b"abc\0"
