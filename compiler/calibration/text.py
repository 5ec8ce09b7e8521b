"""Find the text that a model is calibrated on or judged by: shipped, in files, or in a dataset."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path
from typing import Literal, TypeAlias

from castline.compiler.calibration.dataset import (
    SYNTAX,
    DatasetColumn,
    Row,
    dataset_column,
    dataset_rows,
    holds_rows,
)
from castline.compiler.calibration.encoding import decoded
from castline.errors import RecipeError

Purpose: TypeAlias = Literal["calibration", "evaluation"]

_PARAGRAPHS = re.compile(r"\n\s*\n")


def load_text(source: str | Path | None = None, purpose: Purpose = "evaluation") -> str:
    """Return the text of `source`, or the text shipped for `purpose` if it is None.

    A source is a text file, a folder (its `.txt` files in the order of their names), or a column of
    a dataset that the `datasets` library can load, its rows an empty line apart: see SYNTAX. Of
    conversations it is what is said in them. Raises RecipeError otherwise.
    """
    column = _column(source)
    if column is None:
        return _text(source, purpose)
    return "\n\n".join(_words(row) for row in dataset_rows(column))


def load_documents(source: str | Path | None, purpose: Purpose) -> list[Row]:
    """Return the same text in parts: paragraphs, or rows of a dataset, that are not blank.

    Rows may be conversations, each a list of messages. Raises RecipeError as load_text.
    """
    column = _column(source)
    if column is None:
        found: list[Row] = [*_PARAGRAPHS.split(_text(source, purpose))]
    else:
        found = list(dataset_rows(column))
    return [one for one in found if _words(one).strip()]


def shipped_text(purpose: Purpose) -> str:
    """Return the excerpt shipped for `purpose`: two novels by Jane Austen, in the public domain."""
    file = resources.files("castline.compiler.calibration") / "text" / f"{purpose}.txt"
    return file.read_text(encoding="utf-8")


def text_sha256(text: str) -> str:
    """Return the SHA-256 of the text in UTF-8, by which reports name it."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _column(source: str | Path | None) -> DatasetColumn | None:
    """Return the column that `source` names, unless a file or a folder has that name."""
    if source is None or Path(source).exists():
        return None
    return dataset_column(str(source))


def _words(row: Row) -> str:
    """Return a row's text; of a conversation, what is said in it."""
    return row if isinstance(row, str) else "\n\n".join(message["content"] for message in row)


def _text(source: str | Path | None, purpose: Purpose) -> str:
    if source is None:
        return shipped_text(purpose)
    path = Path(source)
    if path.is_dir():
        return _text_of_folder(path)
    if path.is_file():
        return _text_of_file(path)
    raise RecipeError(f"{source}: no such file, folder or dataset. {SYNTAX}")


def _text_of_folder(folder: Path) -> str:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise RecipeError(f"{folder} has no .txt file. {SYNTAX}")
    return "\n\n".join(_text_of_file(file) for file in files)


def _text_of_file(file: Path) -> str:
    if holds_rows(file):
        raise RecipeError(
            f"{file}: a file of rows, and which of their fields is the text is not said. Give it "
            f"as {file}:COLUMN."
        )
    try:
        return decoded(file.read_bytes(), str(file))
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read ({error.strerror}).") from error
