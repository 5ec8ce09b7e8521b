"""Publish a file whole or not at all: write beside it, then rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from castline.compiler.package.publish import (
    DISK_FULL,
    beside,
    disk_full,
    left_over,
    make_parents,
    not_permitted,
    remove_empty,
)
from castline.errors import CastlineError, OutputError


@contextmanager
def publishing_file(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a path beside `output` to write to, and rename it to `output` if the body succeeds.

    When the body raises, KeyboardInterrupt included, nothing is left and `output` stays as it was.
    What a killed run left is removed when the same output is next published.

    Raises OutputError before the body runs when `output` exists and may not be overwritten (only a
    file ever is), or its folder cannot be written; and after it when the disk is full.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100 - resolve() would follow links
    _refuse_what_is_in_the_way(output, overwrite)
    made = make_parents(output.parent)
    partial = beside(output, "partial", os.getpid())
    try:
        for left in left_over(output, "partial"):
            left.unlink()
        yield partial
        _refuse_what_is_in_the_way(output, overwrite)
        partial.replace(output)
    except PermissionError as error:
        raise OutputError(not_permitted(output.parent)) from error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise OutputError(disk_full(partial, error)) from error
    except CastlineError as error:
        error.args = (str(error).replace(str(partial), str(output)),)
        raise
    finally:
        partial.unlink(missing_ok=True)
        if not output.exists():
            remove_empty(made)


def _refuse_what_is_in_the_way(output: Path, overwrite: bool) -> None:
    if output.is_symlink():
        raise OutputError(f"{output}: is a link; give the file itself.")
    if output.is_dir():
        raise OutputError(f"{output}: is a folder; give the name of a new file.")
    if output.exists() and not overwrite:
        raise OutputError(f"{output}: exists already. Give another output, or --overwrite it.")
