"""Say what a multiple-choice task is: documents, each with requests of which one is right."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One choice: how likely is `continuation` after `context`?"""

    context: str
    continuation: str
    """With the space before it."""

    @property
    def length(self) -> int:
        """The characters of the choice, without the space before it; at least one."""
        return max(1, len(self.continuation.removeprefix(" ")))


@dataclass(frozen=True)
class Document:
    """One question, with a request for each choice; `label` is the place of the right one."""

    requests: tuple[Request, ...]
    label: int


@dataclass(frozen=True)
class Task:
    """Questions of one kind, in the order in which they are asked."""

    name: str
    documents: tuple[Document, ...]
