"""Tasks are read from both forms of file, and what is broken is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.check.tasks.reading import read_task
from castline.compiler.check.tasks.task import Document, Request
from castline.errors import OutputError


def lines(path: Path, *entries: Any) -> Path:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return path


def stated(context: str = "Q:", label: object = 1, choices: object = ("no", "yes")) -> Any:
    return {"context": context, "choices": choices, "label": label}


def requested(document: int, context: str, continuation: str, label: int) -> Any:
    request = {"context": context, "continuation": continuation}
    return {"doc_id": document, "request": request, "label": label}


def test_a_choice_follows_its_context_after_one_space(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", stated(), stated("", 0, [" one", "\ntwo", "three"]))
    task = read_task(path, "t")
    assert task.name == "t"
    assert task.documents == (
        Document((Request("Q:", " no"), Request("Q:", " yes")), 1),
        Document((Request("", " one"), Request("", "\ntwo"), Request("", " three")), 0),
    )


def test_a_limit_keeps_the_first_documents_and_reads_no_further(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", stated("1"), stated("2"), stated(label=7))
    contexts = [document.requests[0].context for document in read_task(path, "t", 2).documents]
    assert contexts == ["1", "2"]


def test_requests_become_documents_without_their_bare_repetitions(tmp_path: Path) -> None:
    entries = [
        requested(0, "Question: a?\nAnswer:", " x", 1),
        requested(0, "Question: a?\nAnswer:", " y", 1),
        requested(1, "she", " left.", 0),
        requested(1, "he", " left.", 0),
        requested(2, "Answer:", " x", 1),
        requested(2, "Answer:", " y", 1),
        requested(3, "Answer:", " new", 0),
        requested(3, "Answer:", " other", 0),
    ]
    path = tmp_path / "requests.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, entries)).encode()))
    documents = read_task(path, "t").documents
    assert [document.requests[0].continuation for document in documents] == [" x", " left.", " new"]
    assert [request.context for request in documents[1].requests] == ["she", "he"]
    assert [document.label for document in documents] == [1, 0, 0]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (stated(label=2), r"line 2: the label is 2, expected the place .* among 2 choices"),
        (stated(label=True), "the label is True"),
        (stated(choices=["one"]), "1 choices, expected at least two"),
        (stated(choices=["", "a"]), "line 2: not a document"),
        ({"choices": ["a", "b"], "label": 0}, "not a document.*Expected a line like"),
        ([1], "line 2: not an object"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, entry: Any, said: str) -> None:
    with pytest.raises(OutputError, match=said):
        read_task(lines(tmp_path / "t.jsonl", stated(), entry), "t")


def test_a_request_without_a_continuation_is_named(tmp_path: Path) -> None:
    entries = requested(0, "a", " b", 0), {"doc_id": 0, "request": {"context": "a"}, "label": 0}
    with pytest.raises(OutputError, match="line 2: a request needs a context and a continuation"):
        read_task(lines(tmp_path / "t.jsonl", *entries), "t")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jsonl", b"", "has no documents"),
        ("t.jsonl", b"{", "not JSON by line 1"),
        ("t.jsonl", b"\xff\xfe", "not JSON"),
        ("t.jsonl.gz", b"no gzip", "cannot be read"),
        ("t.jsonl.gz", gzip.compress(b"x" * 99)[:-12], "cannot be read"),
    ],
)
def test_what_is_no_jsonl_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError, match=said):
        read_task(tmp_path / name, "t")
