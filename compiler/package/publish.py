"""Publish a folder whole or not at all: write beside it, then rename."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from castline.compiler.package.manifest import MANIFEST, read_manifest
from castline.errors import CastlineError, OutputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def publishing(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a fresh folder beside `output`, and rename it to `output` if the body succeeds.

    When the body raises, KeyboardInterrupt included, the folder goes and `output` stays as it was.
    What a killed run left behind is put right when the same output is next published. A SIGTERM is
    the caller's to turn into an exception, as the command line does.

    Raises OutputError before the body runs when `output` exists and may not be overwritten (only an
    output of Castline or an empty folder ever is), or when its parent cannot be written; and after
    it when the disk is full.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100 - resolve() would follow links
    try:
        _recover(output)
        _refuse_what_is_in_the_way(output, overwrite)
    except PermissionError as error:
        raise OutputError(not_permitted(output.parent)) from error
    except OSError as error:
        raise OutputError(f"{output}: cannot be an output: {error.strerror}.") from error
    made = make_parents(output.parent)
    partial = beside(output, "partial", os.getpid())
    try:
        _make_fresh(partial)
        yield partial
        _refuse_what_is_in_the_way(output, overwrite)
        _put_in_place(partial, output)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise OutputError(disk_full(partial, error)) from error
    except CastlineError as error:
        # The body knows only the hidden folder; the user knows only the output.
        error.args = (str(error).replace(str(partial), str(output)),)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not output.exists():
            remove_empty(made)


def _recover(output: Path) -> None:
    """Put right what runs that are no longer alive left beside `output`."""
    for aside in left_over(output, "replaced"):
        if output.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(output)  # killed between the two renames of _put_in_place
    for partial in left_over(output, "partial"):
        shutil.rmtree(partial, ignore_errors=True)


def require_outside(output: Path, folder: Path) -> None:
    """Raise OutputError for an output that lies in `folder`, which its manifest describes."""
    if folder.resolve() in output.resolve().parents:
        raise OutputError(
            f"{output}: lies in {folder}, whose manifest would not list it. Give an output beside "
            "that folder."
        )


def left_over(output: Path, kind: str) -> Iterator[Path]:
    """Yield the hidden neighbours of `output` whose processes are no longer alive."""
    if not output.parent.is_dir():
        return
    prefix = f".{output.name}.{kind}-"
    for path in sorted(output.parent.iterdir()):
        pid = path.name.removeprefix(prefix)
        if path.name.startswith(prefix) and pid.isdecimal() and not _runs(int(pid)):
            yield path


def _runs(pid: int) -> bool:
    """Whether a process other than this one has the number; ours is not yet publishing."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _refuse_what_is_in_the_way(output: Path, overwrite: bool) -> None:
    if not output.name:
        raise OutputError(f"{output}: cannot be an output; give the name of a new folder.")
    if output.is_symlink():
        raise OutputError(f"{output}: is a link; give the folder itself.")
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output}: is a file; give the name of a new folder.")
    if not overwrite:
        raise OutputError(f"{output}: exists already. Give another output, or --overwrite it.")
    if not any(output.iterdir()):
        return
    try:
        read_manifest(output)
    except OutputError as error:
        raise OutputError(
            f"{output}: is not overwritten, because Castline did not write it (its {MANIFEST} is "
            "missing or not Castline's). Give another output, or remove the folder yourself."
        ) from error


def make_parents(parent: Path) -> list[Path]:
    """Make the folders that lack above the output; return them, the deepest first."""
    lacking = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        if lacking or not parent.is_dir():
            parent.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{parent}: is not a folder, so nothing can be put into it.") from error
    except OSError as error:
        raise OutputError(f"{parent}: cannot be made: {error.strerror}.") from error
    return lacking


def _make_fresh(partial: Path) -> None:
    try:
        partial.mkdir()
    except PermissionError as error:
        raise OutputError(not_permitted(partial.parent)) from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise OutputError(f"{partial.parent}: cannot be written: {error.strerror}.") from error


def _put_in_place(partial: Path, output: Path) -> None:
    if not output.exists():
        partial.rename(output)
        return
    aside = beside(output, "replaced", os.getpid())
    output.rename(aside)
    try:
        partial.rename(output)
    except BaseException:
        aside.rename(output)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def beside(output: Path, kind: str, pid: int) -> Path:
    """Return the hidden neighbour of `output` that process `pid` has for that."""
    return output.with_name(f".{output.name}.{kind}-{pid}")


def not_permitted(parent: Path) -> str:
    """Say that a folder may not be written, and what to do."""
    return (
        f"{parent}: may not be read and written. Give an output elsewhere, or change the folder's "
        "permissions."
    )


def disk_full(partial: Path, error: OSError) -> str:
    """Say that there is no room for `partial`, a file or a folder, and what to do."""
    files = (partial, *partial.rglob("*"))
    written = sum(path.stat().st_size for path in files if path.is_file())
    free = shutil.disk_usage(partial.parent).free
    return (
        f"{partial.parent}: {error.strerror}: {written:,} bytes were written, more are needed, and "
        f"{free:,} are free. Nothing was kept. Free space or give an output on another disk."
    )


def remove_empty(folders: list[Path]) -> None:
    """Remove those folders that are empty, in order."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
