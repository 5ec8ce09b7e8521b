"""How long work tells of itself: the compiler reports, whoever started it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a compilation as they begin, advance and end."""

    def stage(
        self, title: str, total: float | None = None, unit: str = ""
    ) -> AbstractContextManager[Callable[[float], None]]:
        """Open one stage; the callable it yields takes how much was done since the last call.

        `total` is in `unit` ("B", "tokens", "tensors", ...); without a total the end is not known.
        """
        ...


class SilentProgress:
    """Progress that nobody watches: for library callers and tests."""

    @contextmanager
    def stage(
        self,
        title: str,  # noqa: ARG002 - the protocol's signature
        total: float | None = None,  # noqa: ARG002
        unit: str = "",  # noqa: ARG002
    ) -> Iterator[Callable[[float], None]]:
        yield lambda _amount: None
