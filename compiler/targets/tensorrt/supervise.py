"""Run the engine builder as a child process, so that its crash is an error and not our end."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from castline.compiler.targets.tensorrt.authors import Authors, maker
from castline.errors import OutputError, TargetError

LAST_LINES = 15
ERRORS_SHOWN = 10
# Polygraphy indents the further lines of one message.
_ERROR = re.compile(r"^\[E\] (?P<text>.*(?:\n {4}.*)*)", re.MULTILINE)
# Where there is no GPU, this accompanies whatever else is wrong.
_NO_DRIVER = "CUDA driver version is insufficient"
_NODE_ERROR = re.compile(
    r"^In node -?\d+ with name: (?P<node>.*?) and operator: (?P<operator>\S*) "
)


def supervise(
    command: Sequence[str], *, job: Path, environment: Mapping[str, str], log: Path
) -> None:
    """Run `command` to its end, with `job` on its standard input and its output in `log`.

    The child is killed when anything interrupts the wait.

    Raises:
        TargetError: the child ended by a signal, or with a status other than zero; the message has
            the last lines of its log.
        OutputError: the log cannot be written.
    """
    process = _start(command, job=job, environment=environment, log=log)
    try:
        status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if status != 0:
        raise TargetError(
            f"the engine builder {_ending(status)}. The last lines of {log}:\n{last_lines(log)}"
        )


def _start(
    command: Sequence[str], *, job: Path, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    try:
        output = log.open("wb")
    except OSError as error:
        raise OutputError(f"the build log cannot be written: {error}") from error
    with job.open("rb") as options, output:
        return subprocess.Popen(
            command, stdin=options, stdout=output, stderr=subprocess.STDOUT, env=dict(environment)
        )


def _ending(status: int) -> str:
    if status > 0:
        return f"stopped with exit status {status}"
    name = signal.Signals(-status).name
    hint = ", most often because memory ran out" if -status == signal.SIGKILL else ""
    return f"crashed (signal {name}{hint})"


def last_lines(log: Path) -> str:
    """Return the end of a build log, indented."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LAST_LINES:]) or "  (it is empty)"


def builder_errors(log: Path, made_by: Authors | None = None) -> tuple[str, ...]:
    """Return what TensorRT reported as errors; where some name nodes, those alone.

    The pass that made a node is named where `made_by` tells it.
    """
    text = log.read_text(errors="replace")
    errors = [error for match in _ERROR.finditer(text) if (error := _one_line(match["text"]))]
    at_nodes = [text for text in errors if _NODE_ERROR.match(text)]
    named = partial(_node, made_by=made_by or {})
    return tuple(_NODE_ERROR.sub(named, text) for text in (at_nodes or errors)[:ERRORS_SHOWN])


def _one_line(error: str) -> str:
    return " ".join(line.strip() for line in error.splitlines() if _NO_DRIVER not in line)


def _node(match: re.Match[str], made_by: Authors) -> str:
    # The parser reports faults of the whole graph, such as its weights, at a node without a name.
    if not match["node"]:
        return ""
    author = maker(match["node"], made_by)
    by = "" if author is None else f", made by {author}"
    return f"{match['node']} ({match['operator']}{by}): "
