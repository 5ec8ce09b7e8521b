"""A file appears whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from castline.compiler.package.publish_file import publishing_file
from castline.errors import OutputError

DEAD = 2**22 + 1  # above Linux's largest process number


def write_and_fail(output: Path, failure: BaseException) -> None:
    with publishing_file(output, overwrite=True) as partial:
        partial.write_bytes(b"\x00" * 1000)
        raise failure


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_it_is_written(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.tar"
    with publishing_file(output, overwrite=False) as partial:
        partial.write_text("whole")
        assert not output.exists()
    assert output.read_text() == "whole"
    assert names(output.parent) == ["out.tar"]


@pytest.mark.parametrize("failure", [ValueError(), KeyboardInterrupt(), SystemExit()])
def test_a_failure_leaves_what_was_there(tmp_path: Path, failure: BaseException) -> None:
    output = tmp_path / "out.tar"
    output.write_text("old")
    with pytest.raises(type(failure)):
        write_and_fail(output, failure)
    assert output.read_text() == "old"
    with pytest.raises(type(failure)):
        write_and_fail(tmp_path / "new" / "out.tar", failure)
    assert names(tmp_path) == ["out.tar"]


def test_a_full_disk_is_told_with_figures(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match=r"No space left on device: 1,000 bytes were written"):
        write_and_fail(tmp_path / "out.tar", full)
    assert names(tmp_path) == []


def test_other_failures_of_the_system_are_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"):
        write_and_fail(tmp_path / "out.tar", OSError(errno.EIO, "broken"))


def test_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    (tmp_path / f".out.tar.partial-{DEAD}").write_text("half")
    with publishing_file(tmp_path / "out.tar", overwrite=False) as partial:
        partial.write_text("whole")
    assert names(tmp_path) == ["out.tar"]


def test_errors_name_the_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"^{tmp_path}/out.tar: broken$"):  # noqa: SIM117
        with publishing_file(tmp_path / "out.tar", overwrite=False) as partial:
            raise OutputError(f"{partial}: broken")


def test_says_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for name, words in (
        ("folder", "is a folder"),
        ("link", "is a link"),
        ("file", "exists already"),
        ("file/below", "is not a folder"),
    ):
        with (
            pytest.raises(OutputError, match=words),
            publishing_file(tmp_path / name, overwrite=False),
        ):
            pytest.fail("the body may not run")
