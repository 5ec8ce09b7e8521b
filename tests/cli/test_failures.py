from __future__ import annotations

import errno
import os
import signal

import pytest
import typer

from castline.cli.failures import Failures, show_error
from castline.errors import CastlineError, GateFailedError


def fail(failure: BaseException, *, debug: bool = False) -> int:
    with pytest.raises(typer.Exit) as caught, Failures(debug=debug):
        raise failure
    return caught.value.exit_code


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def test_errors_of_ours_are_their_message_and_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(CastlineError("no [config.json] in x")) == 1
    assert capsys.readouterr().err == "error: no [config.json] in x\n"
    assert fail(GateFailedError("too far")) == 3


def test_long_messages_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    show_error("word " * 100)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_interruption_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "error: interrupted.\n"


def test_a_termination_is_an_interruption_and_the_handler_goes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as caught, Failures(debug=False):
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_anything_else_is_called_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(ZeroDivisionError("division by zero")) == 1
    error = capsys.readouterr().err
    assert "this is a bug of Castline: ZeroDivisionError: division by zero" in error
    assert "--debug" in error
    assert "Traceback" not in error


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    fail(ZeroDivisionError(), debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_what_is_no_failure_passes_through() -> None:
    with Failures(debug=False):
        pass
    with pytest.raises(typer.Exit) as caught, Failures(debug=False):
        raise typer.Exit(0)
    assert caught.value.exit_code == 0
    with pytest.raises(BrokenPipeError), Failures(debug=False):
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "Free space"), (errno.ENAMETOOLONG, "shorter"), (errno.EFBIG, "ulimit")],
)
def test_what_the_system_refuses_is_no_bug(
    capsys: pytest.CaptureFixture[str], number: int, advice: str
) -> None:
    assert fail(OSError(number, os.strerror(number), "models/x")) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: models/x: {os.strerror(number)}. ")
    assert advice in error
    fail(OSError(errno.ENOSPC, "No space left on device"))
    assert "error: the output: No space left on device." in capsys.readouterr().err
