"""castline embed prints a vector, a table of cosines, or both as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from castline.cli.app import app
from castline.errors import TargetError


class Embeddings:
    """What embed_texts returns, without importing it."""

    notes = ("a note",)

    def __init__(self, count: int) -> None:
        self.vectors = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])[:count]

    def cosines(self) -> np.ndarray:
        return self.vectors @ self.vectors.T


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def embed_texts(folder: Path, texts: list[str], *, threads: int | None) -> Embeddings:
        if folder == Path("decoder"):
            raise TargetError("it is a decoder")
        assert threads in (None, 2)
        return Embeddings(len(texts))

    module = ModuleType("castline.compiler.embedding")
    module.embed_texts = embed_texts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "castline.compiler.embedding", module)


def test_several_texts_are_compared(run: Any) -> None:
    result = run("embed", "out", "one", "two [b]", "x" * 80, "--threads", "2")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["1", "2", "3"]
    assert rows[1] == ["1", "1.000", "0.600", "0.000", "one"]
    assert rows[2] == ["2", "0.600", "1.000", "-0.800", "two", "[b]"]
    assert rows[3][-1] == "x" * 59 + "…"
    assert result.stderr == "note: a note\n"


def test_one_text_is_its_vector(run: Any) -> None:
    result = run("embed", "out", "one", "--quiet")
    assert (json.loads(result.stdout), result.stderr) == ([1.0, 0.0], "")


def test_json_has_texts_vectors_and_cosines(run: Any) -> None:
    document = json.loads(run("embed", "out", "one", "two", "--json").stdout)
    assert document == {
        "texts": ["one", "two"],
        "vectors": [[1.0, 0.0], [0.6, 0.8]],
        "cosines": [[1.0, 0.6], [0.6, pytest.approx(1)]],
    }


def test_what_is_wrong_is_a_sentence(run: Any) -> None:
    result = run("embed", "decoder", "one")
    assert (result.exit_code, result.stderr) == (1, "error: it is a decoder\n")


def test_no_text_is_wrong_usage(run: Any) -> None:
    assert run("embed", "out").exit_code == 2


def test_bytes_that_are_no_text_are_wrong_usage(run: Any) -> None:
    result = run("embed", "out", "one", "\udcff")
    assert result.exit_code == 2
    assert "is not UTF-8 text" in result.stderr


def piped(content: bytes, *texts: str) -> Result:
    return CliRunner().invoke(app, ["embed", "out", *texts, "--json"], input=content)


@pytest.mark.parametrize(
    ("content", "given", "texts"),
    [
        (b"one\ntwo \xc3\xa9\n", ["-"], ["one", "two é"]),
        (b"\xef\xbb\xbfone\r\n\n  \r\ntwo", ["-"], ["one", "two"]),
        (b"two\n", ["one", "-", "three"], ["one", "two", "three"]),
    ],
)
def test_a_dash_is_the_lines_of_standard_input(
    content: bytes, given: list[str], texts: list[str]
) -> None:
    assert json.loads(piped(content, *given).stdout)["texts"] == texts


@pytest.mark.parametrize(
    ("content", "given", "words"),
    [
        (b"\n \n", ["-"], "standard input has no text: expected one on each line"),
        (b"\xff\xfe", ["-"], "standard input is not UTF-8 text"),
        (b"one\n", ["-", "-"], "give it once"),
    ],
)
def test_standard_input_without_texts_is_an_error(
    content: bytes, given: list[str], words: str
) -> None:
    result = piped(content, *given)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
