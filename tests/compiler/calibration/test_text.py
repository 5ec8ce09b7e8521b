"""Text comes from every kind of source, and every source that is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from castline.compiler.calibration.text import (
    load_documents,
    load_text,
    text_sha256,
)
from castline.errors import RecipeError


@pytest.mark.parametrize(("purpose", "size"), [("calibration", 195_017), ("evaluation", 79_110)])
def test_each_purpose_has_its_shipped_text(purpose, size: int) -> None:
    text = load_text(None, purpose)
    assert len(text.encode()) == size
    assert text.lower().startswith("chapter ")


def test_the_shipped_texts_share_no_paragraph() -> None:
    calibration, evaluation = (
        {" ".join(str(one).split()) for one in load_documents(None, purpose) if len(str(one)) > 80}
        for purpose in ("calibration", "evaluation")
    )
    assert not calibration & evaluation


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc", encoding="utf-8")
    # FIPS 180-2, appendix B.1: SHA-256 of "abc".
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert text_sha256(load_text(tmp_path / "a.txt")) == known


def test_a_folder_is_its_text_files_by_name(tmp_path: Path) -> None:
    for name, content in (("b.txt", "second"), ("a.txt", "first"), ("c.md", "other")):
        (tmp_path / name).write_text(content)
    assert load_text(tmp_path) == "first\n\nsecond"


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no \.txt file"):
        load_text(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(RecipeError, match=r"a\.txt: byte 0xff at offset 2 is not text in UTF-8"):
        load_text(tmp_path / "a.txt")


def test_a_file_of_rows_is_refused_without_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "first"}')
    with pytest.raises(RecipeError, match=r"Give it as .*a\.jsonl:COLUMN"):
        load_text(tmp_path / "a.jsonl")


def test_what_is_not_there_is_refused_with_the_syntax() -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.txt: no such file.*NAME:SPLIT:COLUMN"):
        load_text("nowhere.txt")


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"text": "first", "chat": [{"role": "user", "content": "Why?"}]}\n'
        '{"text": " ", "chat": []}\n'
        '{"text": "second", "chat": [{"role": "user", "content": "How?"},'
        ' {"role": "assistant", "content": "So."}]}\n'
    )
    return file


def test_rows_of_a_dataset_are_an_empty_line_apart(rows: Path) -> None:
    assert load_text(f"{rows}:text") == "first\n\n \n\nsecond"


def test_the_text_of_conversations_is_what_is_said(rows: Path) -> None:
    assert load_text(f"{rows}:chat") == "Why?\n\n\n\nHow?\n\nSo."


def test_documents_of_a_text_are_its_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\nline\n\n \n\nsecond\n")
    assert load_documents(tmp_path / "a.txt", "calibration") == ["one\nline", "second\n"]


def test_documents_of_a_dataset_are_its_rows_that_are_not_blank(rows: Path) -> None:
    assert load_documents(f"{rows}:text", "calibration") == ["first", "second"]
    assert load_documents(f"{rows}:chat", "calibration") == [
        [{"role": "user", "content": "Why?"}],
        [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}],
    ]
