"""castline embed: vectors of texts, and how alike they are."""

# ruff: noqa: PLC0415 - onnxruntime takes time that --help does not have.

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from castline.cli.failures import Failures
from castline.cli.options import AsJson, Debug, Quiet, Threads, utf8_alone
from castline.cli.tables import out
from castline.errors import CastlineError

if TYPE_CHECKING:
    from castline.compiler.embedding import Embeddings

STDIN = "-"
_SHOWN = 60  # characters of a text


def embed(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A folder with an encoder, as BERT, or an .onnx file in one.",
            show_default=False,
        ),
    ],
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT",
            callback=utf8_alone,
            help=f"What to encode; {STDIN} takes texts from stdin, one on each line.",
            show_default=False,
        ),
    ],
    *,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn texts into vectors with a compiled encoder, and show how alike they are.

    Tokens are pooled as the sentence-transformers files in the folder say. One text gives its
    vector, several the cosine of every two; --json gives both.

    **Example:** castline embed build/minilm "A cat sleeps." "A kitten naps." "Stocks fell."
    """
    with Failures(debug=debug):
        from castline.compiler.embedding import embed_texts

        texts = _with_stdin(texts)
        found = embed_texts(output, texts, threads=threads)
        if as_json:
            document = {
                "texts": texts,
                "vectors": found.vectors.tolist(),
                "cosines": found.cosines().tolist(),
            }
            typer.echo(json.dumps(document, ensure_ascii=False))
        elif len(texts) == 1:
            typer.echo(json.dumps(found.vectors[0].tolist()))
        else:
            out().print(_cosines(texts, found))
        for note in () if quiet else found.notes:
            typer.echo(f"note: {note}", err=True)


def _with_stdin(given: list[str]) -> list[str]:
    """Return the texts, with the lines of standard input in place of the dash; empty ones left out.

    Raises CastlineError where it has none, or is no text, or is asked for twice.
    """
    if STDIN not in given:
        return given
    place = given.index(STDIN)
    if STDIN in given[place + 1 :]:
        raise CastlineError(f"{STDIN} stands for the whole of standard input: give it once.")
    try:
        content = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CastlineError(f"standard input is not UTF-8 text: {error}.") from error
    lines = [line for line in content.replace("\r\n", "\n").split("\n") if line.strip()]
    if not lines:
        raise CastlineError("standard input has no text: expected one on each line.")
    return [*given[:place], *lines, *given[place + 1 :]]


def _cosines(texts: list[str], found: Embeddings) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for place in range(1, len(texts) + 1):
        table.add_column(str(place), justify="right")
    table.add_column("")
    for place, (text, row) in enumerate(zip(texts, found.cosines(), strict=True), start=1):
        shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
        table.add_row(str(place), *(f"{cosine:.3f}" for cosine in row), Text(shown))
    return table
