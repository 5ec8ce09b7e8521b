"""An original that does not fit is said before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.check.memory import available_memory, require_memory
from castline.errors import TargetError


def test_refuses_what_does_not_fit_and_says_what_to_do(tiny: Callable[[str], Any]) -> None:
    checkpoint = tiny("llama").checkpoint
    needed = 5 * sum(spec.size for spec in checkpoint.tensors.values())
    require_memory(checkpoint, needed)
    with pytest.raises(TargetError, match=r"--no-gate here, and run castline check"):
        require_memory(checkpoint, needed - 1)


def test_refuses_nothing_where_the_system_does_not_tell(tiny: Callable[[str], Any]) -> None:
    require_memory(tiny("llama").checkpoint, None)


def test_reads_what_linux_estimates(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemFree:   10 kB\nMemAvailable:     64 kB\n")
    assert available_memory(meminfo) == 65536
    meminfo.write_text("MemTotal:       100 kB\n")
    assert available_memory(meminfo) is None
    assert available_memory(tmp_path / "absent") is None
