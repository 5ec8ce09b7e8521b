"""Cut text into token windows, and find the text: shipped, in files, or in a dataset."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Purpose: TypeAlias = Literal["calibration", "evaluation"]

SYNTAX = (
    "Give a .txt file, a folder of .txt files, or a dataset as NAME:SPLIT:COLUMN or "
    "NAME@CONFIG:SPLIT:COLUMN, as in Salesforce/wikitext@wikitext-2-raw-v1:test:text."
)


def token_windows(
    tokenizer: PreTrainedTokenizerBase, text: str, *, length: int, count: int
) -> NDArray[np.int64]:
    """Return the first `count` windows of `length` tokens of `text`, [count, length].

    The windows do not overlap. Each begins with the token the tokenizer begins every text with, if
    it has one: models trained with it predict badly without. Raises RecipeError if the text is too
    short, or if no window would hold any of it.
    """
    begin = beginning(tokenizer)
    body = length - len(begin)
    if body < 1 or count < 1:
        raise RecipeError(
            f"{count} windows of {length} tokens asked for; expected at least 1 window of at least "
            f"{len(begin) + 1} tokens."
        )
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    tokens = np.array(encoded[: count * body], dtype=np.int64)
    if tokens.size < count * body:
        raise RecipeError(
            f"The text is too short: {count} windows of {length} tokens need {count * body} "
            f"tokens of text, and it has {tokens.size}. Give a longer text, fewer windows or "
            "shorter ones."
        )
    starts = np.tile(np.array(begin, dtype=np.int64), (count, 1))
    return np.concatenate([starts, tokens.reshape(count, body)], axis=1)


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token put before every text as a list, which is empty if there is none."""
    tokens: list[int] = tokenizer("")["input_ids"]
    return [token for token in tokens[:1] if token == tokenizer.bos_token_id]


def load_text(source: str | Path | None = None, purpose: Purpose = "evaluation") -> str:
    """Return the text of `source`, or the text shipped for `purpose` if it is None.

    A source is a `.txt` file, a folder (its `.txt` files in the order of their names), or a dataset
    that the `datasets` library can load, by hub name or local folder: `NAME:SPLIT:COLUMN`, or
    `NAME@CONFIG:SPLIT:COLUMN` if it has several configurations. Raises RecipeError otherwise.
    """
    if source is None:
        return shipped_text(purpose)
    path = Path(source)
    if path.is_dir():
        return text_of_folder(path)
    if path.is_file():
        return text_of_file(path)
    if str(source).count(":") == 2:
        return text_of_dataset(*str(source).split(":"))
    raise RecipeError(f"{source}: no such file, folder or dataset. {SYNTAX}")


def shipped_text(purpose: Purpose) -> str:
    """Return the excerpt shipped for `purpose`: two novels by Jane Austen, in the public domain."""
    file = resources.files("castline.compiler.calibration") / "text" / f"{purpose}.txt"
    return file.read_text(encoding="utf-8")


def text_sha256(text: str) -> str:
    """Return the SHA-256 of the text in UTF-8, by which reports name it."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def require_apart(calibration: str, evaluation: str) -> None:
    """Raise RecipeError if one text is the other or a part of it.

    A model calibrated on the text it is judged by looks better than it is.
    """
    if calibration.strip() in evaluation or evaluation.strip() in calibration:
        raise RecipeError(
            "The calibration text and the evaluation text are the same, or one holds the other. "
            "Give a different text for one of them."
        )


def text_of_folder(folder: Path) -> str:
    """Return the `.txt` files of a folder, in the order of their names, an empty line apart."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise RecipeError(f"{folder} has no .txt file. {SYNTAX}")
    return "\n\n".join(text_of_file(file) for file in files)


def text_of_file(file: Path) -> str:
    """Return the content of a text file in UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not text in UTF-8 ({error}). {SYNTAX}") from error
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read ({error.strerror}).") from error


def text_of_dataset(name: str, split: str, column: str) -> str:
    """Return the rows of one column of a dataset, an empty line apart."""
    # datasets takes seconds to import, and most runs use text files.
    from datasets import load_dataset  # noqa: PLC0415
    from datasets.exceptions import DatasetsError  # noqa: PLC0415

    path, _, config = name.partition("@")
    where = f"Dataset {name!r}, split {split!r}"
    try:
        dataset = load_dataset(path, config or None, split=split)
    except (DatasetsError, ValueError, OSError) as error:
        raise RecipeError(f"{where} cannot be loaded: {error} {SYNTAX}") from error
    columns = {name: str(feature.dtype) for name, feature in dataset.features.items()}
    if columns.get(column) not in {"string", "large_string"}:
        there = ", ".join(f"{name} ({dtype})" for name, dtype in columns.items())
        raise RecipeError(f"{where} has no column {column!r} of text; it has {there}.")
    return "\n\n".join(dataset[column])
