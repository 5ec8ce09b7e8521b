"""Memory that is free goes back to the system, where the system can be asked."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from castline.compiler.search import freed_memory
from castline.compiler.search.freed_memory import return_freed_memory


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is no glibc"
)
def test_pages_between_what_is_in_use_are_returned() -> None:
    # 64 KB each are too small to be mapped on their own, so every other one stays in the heap.
    arrays = [np.ones(1 << 13) for _ in range(2000)]
    kept = arrays[::2]
    del arrays
    before = _resident_kb()
    return_freed_memory()
    assert before - _resident_kb() > 40_000
    assert all(array[0] == 1 for array in kept)


def test_does_nothing_where_there_is_no_such_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory, "_malloc_trim", lambda: None)
    return_freed_memory()


def _resident_kb() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])
