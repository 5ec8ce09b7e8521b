"""Run a command as a whole process and measure what it cost.

The measuring process imports nothing big: Linux counts the parent's memory at the fork into the
child's peak, so a parent with torch loaded would set a floor under every figure.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KIB = 1024
MB = 1e6
LAST_LINES = 15


class BenchmarkError(Exception):
    """A measured command failed, so there is nothing to compare."""


@dataclass(frozen=True)
class Cost:
    """What one process took from its start to its exit."""

    wall_s: float
    cpu_s: float  # user and system time of the process and the children it waited for
    peak_mb: float  # largest resident memory of any one process in the tree, 1e6 bytes
    stdout: str


def run_measured(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run `command` with `environment` added to this process's, and return its cost.

    Raises BenchmarkError with the command and the end of its stderr when it exits with an error.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        start = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=stdout, stderr=stderr, env={**os.environ, **environment}
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait a second time
        stdout.seek(0)
        stderr.seek(0)
        if child.returncode != 0:
            end = "".join(stderr.readlines()[-LAST_LINES:])
            raise BenchmarkError(f"exit {child.returncode}: {' '.join(command)}\n{end}")
        return Cost(
            wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * KIB / MB, stdout.read()
        )
