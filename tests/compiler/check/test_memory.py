"""What does not fit into memory is said before it is loaded."""

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
    require_memory(checkpoint, 0, needed, "Run it elsewhere.")
    with pytest.raises(TargetError, match=r"GB are available\. Run it elsewhere\."):
        require_memory(checkpoint, 0, needed - 1, "Run it elsewhere.")


def test_counts_the_result_too(tiny: Callable[[str], Any]) -> None:
    checkpoint = tiny("llama").checkpoint
    original = 4 * sum(spec.size for spec in checkpoint.tensors.values())
    require_memory(checkpoint, original, int(2.5 * original), "")
    with pytest.raises(TargetError, match="takes about"):
        require_memory(checkpoint, original, int(2.5 * original) - 1, "")


def test_refuses_nothing_where_the_system_does_not_tell(tiny: Callable[[str], Any]) -> None:
    require_memory(tiny("llama").checkpoint, 0, None, "")


def test_reads_what_linux_estimates(tmp_path: Path) -> None:
    meminfo, absent = tmp_path / "meminfo", tmp_path / "absent"
    meminfo.write_text("MemTotal:       100 kB\nMemFree:   10 kB\nMemAvailable:     64 kB\n")
    assert available_memory(meminfo, absent) == 65536
    meminfo.write_text("MemTotal:       100 kB\n")
    assert available_memory(meminfo, absent) is None
    assert available_memory(absent, absent) is None


@pytest.mark.parametrize(
    ("limit", "expected"), [("50000", 50000 - 20000 + 700), ("15000", 0), ("max", 65536)]
)
def test_a_control_group_allows_less_than_the_machine_has(
    tmp_path: Path, limit: str, expected: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable:     64 kB\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("20000\n")
    (tmp_path / "memory.stat").write_text("anon 19300\ninactive_file 600\nactive_file 100\n")
    assert available_memory(meminfo, tmp_path) == expected


def test_a_control_group_wider_than_the_machine_does_not_matter(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable:     64 kB\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("20000\n")
    assert available_memory(meminfo, tmp_path) == 65536
