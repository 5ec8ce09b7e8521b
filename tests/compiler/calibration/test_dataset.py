"""A column of a dataset is found by its name, and what is wrong with it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from castline.compiler.calibration.dataset import (
    DatasetColumn,
    dataset_column,
    dataset_rows,
    holds_rows,
)
from castline.errors import RecipeError

CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
ROWS = [
    {"text": "first", "number": 1, "chat": CHAT, "turns": [{"from": "a", "value": "b"}]},
    {"text": None, "number": 2, "chat": None, "turns": []},
    {"text": "third", "number": 3, "chat": CHAT[:1], "turns": []},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    return folder


def rows_of(source: object) -> list[object]:
    column = dataset_column(str(source))
    assert column is not None
    return list(dataset_rows(column))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/b:train:text", DatasetColumn("a/b", None, "train", "text", None)),
        ("a/b@c-1:test:text", DatasetColumn("a/b", "c-1", "test", "text", None)),
        ("a:train[:10%]:text", DatasetColumn("a", None, "train[:10%]", "text", None)),
        ("a:train:x:text", DatasetColumn("a:train", None, "x", "text", None)),
        ("a:text", None),
        ("a.txt", None),
    ],
)
def test_a_dataset_is_named_with_split_and_column(source: str, expected: object) -> None:
    assert dataset_column(source) == expected


def test_rows_of_one_split_that_are_not_null(folder: Path) -> None:
    assert rows_of(f"{folder}:train:text") == ["first", "third"]


def test_a_split_may_be_a_slice(folder: Path) -> None:
    assert rows_of(f"{folder}:train[2:]:text") == ["third"]


def test_conversations_are_lists_of_messages(folder: Path) -> None:
    assert rows_of(f"{folder}:train:chat") == [CHAT, CHAT[:1]]


def test_files_of_rows_need_no_split(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.csv").write_text("text,number\nfirst,1\nthird,3\n")
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    pq.write_table(pa.table({"text": ["first", None, "third"]}), tmp_path / "a.parquet")
    for file in (folder / "train.jsonl", *(tmp_path / f"a.{end}" for end in ("csv", "json"))):
        assert rows_of(f"{file}:text") == ["first", "third"]
    assert rows_of(f"{tmp_path}/a.parquet:text") == ["first", "third"]


def test_files_of_rows_are_known_by_their_ending() -> None:
    assert holds_rows(Path("a.JSONL"))
    assert not holds_rows(Path("a.txt"))


@pytest.mark.parametrize("column", ["number", "body", "turns"])
def test_a_column_without_text_is_refused_with_those_there_are(folder: Path, column: str) -> None:
    there = (
        rf"^Dataset '{folder}', split 'train' has no column '{column}' of text or of messages.*; "
        r"it has text \(text\), number \(int64\), chat \(messages with role and content\), "
        r"turns \(lists of from, value\)\."
    )
    with pytest.raises(RecipeError, match=there):
        rows_of(f"{folder}:train:{column}")


def test_a_message_without_a_role_is_refused_with_its_row(tmp_path: Path) -> None:
    chats = [CHAT, [{"role": None, "content": "Why?"}]]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"chat": chat}) for chat in chats))
    with pytest.raises(RecipeError, match=r"a\.jsonl, row 1: a message has no role"):
        rows_of(f"{tmp_path}/a.jsonl:chat")


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"split 'test' cannot be loaded.*train"):
        rows_of(f"{folder}:test:text")


def test_a_dataset_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be loaded"):
        rows_of(f"{tmp_path}/nowhere:train:text")


def test_a_damaged_file_is_refused_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{nothing")
    with pytest.raises(RecipeError, match=r"a\.jsonl cannot be loaded: .*JSON parse error"):
        rows_of(f"{tmp_path}/a.jsonl:text")
