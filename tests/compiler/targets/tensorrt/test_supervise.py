"""Run the engine builder as a child process, so that its crash is an error and not our end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from castline.compiler.targets.tensorrt.supervise import builder_errors, last_lines, supervise
from castline.errors import OutputError, TargetError


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.json"
    path.write_text('{"model": "m"}')
    return path


def run(code: str, job: Path, log: Path) -> None:
    """Supervise a child that executes `code`."""
    supervise([sys.executable, "-c", code], job=job, environment=os.environ, log=log)


def test_the_job_is_its_input_and_the_log_has_all_it_wrote(job: Path, tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    run("import sys; print(sys.stdin.read(), flush=True); sys.stderr.write('warned')", job, log)
    assert log.read_text() == '{"model": "m"}\nwarned'


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV"])
def test_a_crash_is_an_error_with_the_signal_and_the_last_lines(
    job: Path, tmp_path: Path, name: str
) -> None:
    code = (
        "import os, signal\n"
        "for line in range(40): print('line', line, flush=True)\n"
        f"os.kill(os.getpid(), signal.{name})"
    )
    log = tmp_path / "build.log"
    with pytest.raises(TargetError) as caught:
        run(code, job, log)
    message = str(caught.value)
    assert f"crashed (signal {name})" in message
    assert str(log) in message
    assert "line 39" in message
    assert "line 20" not in message
    assert "line 20" in log.read_text()


def test_a_killed_child_hints_at_memory(job: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="SIGKILL, most often because memory ran out"):
        run("import os; os.kill(os.getpid(), 9)", job, tmp_path / "build.log")


def test_a_python_error_is_an_error_with_its_last_lines(job: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"exit status 1(?s:.*)ZeroDivisionError"):
        run("1 / 0", job, tmp_path / "build.log")


def test_a_log_that_cannot_be_written_is_named(job: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent/build\.log"):
        run("", job, tmp_path / "absent" / "build.log")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_parent_that_is_stopped_takes_the_child_with_it(
    job: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    started = tmp_path / "started"
    child = (
        "import os, pathlib, time\n"
        "from castline.compiler.targets.tensorrt.child import die_with\n"
        "die_with(os.getppid())\n"
        f"pathlib.Path({str(started)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    parent = (
        "import os, sys, pathlib\n"
        "from castline.compiler.targets.tensorrt.supervise import supervise\n"
        f"supervise([sys.executable, '-c', {child!r}], job=pathlib.Path({str(job)!r}),\n"
        f"    environment=os.environ, log=pathlib.Path({str(tmp_path / 'build.log')!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stderr=subprocess.DEVNULL) as process:
        assert wait_for(lambda: started.is_file() and started.read_text() != "")
        process.send_signal(stop)
        process.wait(timeout=10)
    assert wait_for(lambda: not alive(int(started.read_text())))


def wait_for(condition: object, seconds: float = 20) -> bool:
    """Return whether `condition` came true in time."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def alive(process: int) -> bool:
    """Return whether a process runs; one that ended and waits for its parent does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_errors_at_nodes_are_told_by_node(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(
        "[V] parsing\n"
        "[E] ModelImporter.cpp:142: --- Begin node ---\n"
        "[E] In node 4 with name: layers.0.q_proj and operator: MatMul (importMatMul): "
        "INVALID_NODE: Invalid Node\n"
        "    ITensor::getDimensions: shapes differ\n"
        "    Cuda Runtime (cudaError 35: CUDA driver version is insufficient for CUDA)\n"
        "[E] In node -1 with name:  and operator:  (importInitializers): INVALID_GRAPH: w\n"
    )
    assert builder_errors(log) == (
        "layers.0.q_proj (MatMul): (importMatMul): INVALID_NODE: Invalid Node "
        "ITensor::getDimensions: shapes differ",
        "(importInitializers): INVALID_GRAPH: w",
    )


def test_errors_without_nodes_are_told_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("[I] begins\n[E] Error Code 1: Myelin (CHECK failed)\n[I] ends\n")
    assert builder_errors(log) == ("Error Code 1: Myelin (CHECK failed)",)


def test_an_empty_log_is_said_to_be_empty(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.touch()
    assert last_lines(log) == "  (it is empty)"
    assert builder_errors(log) == ()
