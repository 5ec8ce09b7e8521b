"""Read one column of a dataset: by its name, from a local folder, or from one file of rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from castline.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

Message: TypeAlias = Mapping[str, str]
"""What one speaker says: {"role": ..., "content": ...}."""
Row: TypeAlias = str | Sequence[Message]

SYNTAX = (
    "Give a .txt file, a folder of .txt files, a file of rows (.json, .jsonl, .parquet or .csv) as "
    "FILE:COLUMN, or a dataset as NAME:SPLIT:COLUMN or NAME@CONFIG:SPLIT:COLUMN, as in "
    "Salesforce/wikitext@wikitext-2-raw-v1:test:text; SPLIT may be a slice, as in train[:1000]."
)
_FORMATS: Mapping[str, str] = {
    ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"
}  # fmt: skip
_NAMED = re.compile(r"(.+?):([^:\[\]]+(?:\[[^\]]*\])?):([^:]+)")


@dataclass(frozen=True)
class DatasetColumn:
    """Which column of which dataset is read."""

    name: str
    """Of a dataset, of a local folder, or of a file of rows."""
    config: str | None
    split: str
    column: str
    file_format: str | None
    """How a file of rows is read; None for a dataset."""

    def __str__(self) -> str:
        """Return its name in errors."""
        if self.file_format is not None:
            return self.name
        config = f", configuration {self.config!r}" if self.config else ""
        return f"Dataset {self.name!r}{config}, split {self.split!r}"


def dataset_column(source: str) -> DatasetColumn | None:
    """Return what `source` names as SYNTAX says it, or None if it does not name a column."""
    file, _, column = source.rpartition(":")
    file_format = _FORMATS.get(Path(file).suffix.lower())
    if file_format is not None and Path(file).is_file():
        return DatasetColumn(file, None, "train", column, file_format)
    named = _NAMED.fullmatch(source)
    if named is None:
        return None
    name, _, config = named[1].partition("@")
    return DatasetColumn(name, config or None, named[2], named[3], None)


def holds_rows(file: Path) -> bool:
    """Return whether a file is one of rows, by its ending: its text alone means nothing."""
    return file.suffix.lower() in _FORMATS


def dataset_rows(column: DatasetColumn) -> Iterator[Row]:
    """Yield the rows of a column: texts, or conversations; rows that are null are left out.

    Raises RecipeError for a dataset that cannot be loaded and for a column of anything else.
    """
    dataset = _loaded(column)
    feature = dataset.features.get(column.column)
    kind = "nothing" if feature is None else _kind(feature)
    if kind not in (_TEXT, _MESSAGES):
        there = ", ".join(f"{name} ({_kind(one)})" for name, one in dataset.features.items())
        raise RecipeError(
            f"{column} has no column {column.column!r} of {_TEXT} or of {_MESSAGES}; it has "
            f"{there}. {SYNTAX}"
        )
    for number, row in enumerate(dataset[column.column]):
        if row is not None:
            yield _checked(row, f"{column}, row {number}")


def _loaded(column: DatasetColumn) -> Dataset:
    # datasets takes seconds to import, and most runs use text files.
    from datasets import load_dataset  # noqa: PLC0415
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    try:
        if column.file_format is not None:
            return load_dataset(column.file_format, data_files=column.name, split=column.split)
        return load_dataset(column.name, column.config, split=column.split)
    except (DatasetsError, ValueError, OSError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise RecipeError(f"{column} cannot be loaded: {error}{cause} {SYNTAX}") from error


def _checked(row: Row, where: str) -> Row:
    """Return the row, whose messages may lack what the column's type promises."""
    for message in () if isinstance(row, str) else row:
        for part in ("role", "content"):
            if message.get(part) is None:
                raise RecipeError(f"{where}: a message has no {part}; expected text.")
    return row


_TEXT, _MESSAGES = "text", "messages with role and content"


def _kind(feature: object) -> str:
    """Return what a column holds, in words that errors give."""
    from datasets import LargeList, List, Value  # noqa: PLC0415 - as above

    if isinstance(feature, Value):
        dtype = str(feature.dtype)
        return _TEXT if dtype in ("string", "large_string") else dtype
    if isinstance(feature, List | LargeList) and isinstance(feature.feature, dict):
        message: Mapping[str, object] = feature.feature
        if all(_is_text(message.get(part)) for part in ("role", "content")):
            return _MESSAGES
        return f"lists of {', '.join(message)}"
    return type(feature).__name__


def _is_text(feature: object) -> bool:
    return feature is not None and _kind(feature) == _TEXT
