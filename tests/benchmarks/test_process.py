"""Check what a measured process is said to have cost."""

from __future__ import annotations

import sys

import pytest


def test_a_sleeping_process_takes_wall_time_and_little_cpu() -> None:
    from process import run_measured

    cost = run_measured([sys.executable, "-S", "-c", "import time; time.sleep(0.4)"], {})
    assert cost.wall_s >= 0.4
    assert 0 < cost.cpu_s < cost.wall_s


def test_the_peak_holds_what_the_process_touched() -> None:
    from process import run_measured

    code = "block = b'x' * 300_000_000; del block; print('done')"
    cost = run_measured([sys.executable, "-S", "-c", code], {})
    assert cost.peak_mb > 300
    assert cost.stdout == "done\n"


def test_the_environment_is_added_to() -> None:
    from process import run_measured

    code = "import os; print(os.environ['THREADS'], 'PATH' in os.environ)"
    cost = run_measured([sys.executable, "-c", code], {"THREADS": "2"})
    assert cost.stdout == "2 True\n"


def test_a_failure_is_an_error_with_the_end_of_its_stderr() -> None:
    from process import BenchmarkError, run_measured

    with pytest.raises(BenchmarkError, match=r"exit 3: (.|\n)*no such model"):
        run_measured(
            [sys.executable, "-c", "import sys; sys.stderr.write('no such model'); sys.exit(3)"], {}
        )
