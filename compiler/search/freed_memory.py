"""Give memory that is free inside the process back to the system."""

from __future__ import annotations

import ctypes
from functools import cache


def return_freed_memory() -> None:
    """Let go of the pages between what is still in use; does nothing where libc has no such call.

    The weights of a block come and go in many sizes, and what the C library keeps of them for later
    grows from block to block: by 5 MB each where a block has 14 MB.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # glibc
    except (AttributeError, OSError, TypeError):
        return None
