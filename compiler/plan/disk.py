"""Say in words that a disk is full, and reserve room before it is written to by memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from castline.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def refusing_full_disk(folder: Path) -> Iterator[None]:
    """Raise OutputError for what cannot be written below `folder`, with the way to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise OutputError(
                f"{folder}: cannot be written ({error.strerror or error})."
            ) from error
        raise OutputError(
            f"{folder}: the disk is full. What was finished is kept: make room and give the same "
            "command again, and it goes on from the last finished block."
        ) from error


def reserve(path: Path, size: int) -> None:
    """Reserve `size` bytes for a file, so that a full disk is told before the work and not after.

    Raises OSError where there is no room.
    """
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)
