"""End a command that failed: words on stderr, an exit code, and no traceback unless asked for."""

from __future__ import annotations

import errno
import signal
import threading
from types import FrameType, TracebackType

import typer
from rich.console import Console
from rich.text import Text

from castline.errors import CastlineError

INTERRUPTED = 130
FAILED = 1
_OF_THE_MACHINE = {
    errno.ENOSPC: "Free space, or write elsewhere.",
    errno.EDQUOT: "Free space, or write elsewhere.",
    errno.EFBIG: "Write elsewhere, or raise the limit (ulimit -f).",
    errno.EROFS: "Write elsewhere.",
    errno.ENAMETOOLONG: "Give a shorter one.",
}
"""What is to be done about errors of the system that no program can prevent."""


class Failures:
    """While this is entered, what goes wrong is shown in words and becomes an exit code.

    A SIGTERM becomes a KeyboardInterrupt, so that a terminated command tidies up as an interrupted
    one does. `--debug` shows the traceback first.
    """

    def __init__(self, *, debug: bool, interrupted: str = "interrupted.") -> None:
        self._debug = debug
        self._interrupted = interrupted
        self._former_handler: object = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._former_handler = signal.signal(signal.SIGTERM, _interrupt)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._former_handler is not None:
            signal.signal(signal.SIGTERM, self._former_handler)  # type: ignore[arg-type]
        if failure is None or isinstance(failure, typer.Exit | SystemExit | BrokenPipeError):
            return
        if self._debug:
            Console(stderr=True).print_exception()
        message, code = self._words(failure)
        show_error(message)
        raise typer.Exit(code) from failure

    def _words(self, failure: BaseException) -> tuple[str, int]:
        if isinstance(failure, CastlineError):
            return str(failure), failure.exit_code
        if isinstance(failure, KeyboardInterrupt):
            return self._interrupted, INTERRUPTED
        if isinstance(failure, OSError) and failure.errno in _OF_THE_MACHINE:
            place = "the output" if failure.filename is None else failure.filename
            return f"{place}: {failure.strerror}. {_OF_THE_MACHINE[failure.errno]}", FAILED
        words = " ".join(str(failure).split())
        return (
            f"this is a bug of Castline: {type(failure).__name__}: {words[:300]}\n"
            "Run the same command with --debug to see where, and please report it.",
            FAILED,
        )


def show_error(message: str) -> None:
    """Print `message` on stderr after a red `error:`."""
    line = Text.assemble(("error:", "bold red"), " ", message)
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
