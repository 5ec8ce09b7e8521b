"""Text is decoded where its encoding is certain, and refused with the offset where it is not."""

from __future__ import annotations

import pytest

from castline.compiler.calibration.encoding import decoded
from castline.errors import RecipeError


@pytest.mark.parametrize(
    "content",
    [
        "näh 字".encode(),
        b"\xef\xbb\xbf" + "näh 字".encode(),
        b"\xff\xfe" + "näh 字".encode("utf-16-le"),
        b"\xfe\xff" + "näh 字".encode("utf-16-be"),
    ],
    ids=["UTF-8", "UTF-8 with a mark", "UTF-16 LE", "UTF-16 BE"],
)
def test_the_same_text_comes_from_every_known_encoding(content: bytes) -> None:
    assert decoded(content, "a.txt") == "näh 字"


def test_lines_end_by_line_feeds_alone() -> None:
    assert decoded(b"a\r\nb\rc\n", "a.txt") == "a\nb\nc\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("né".encode("latin-1") + b"e", r"^a\.txt: byte 0xe9 at offset 1 is not text in UTF-8"),
        (b"\xef\xbb\xbfab\xff", r"byte 0xff at offset 5 is not text in UTF-8"),
        (b"\xff\xfea\x00b", r"byte 0x62 at offset 4 is not text in UTF-16"),
        ("äb".encode() + b"\x00", r"byte 0x00 at offset 3: .* UTF-16 without a byte order mark"),
    ],
)
def test_what_is_not_text_is_refused_with_its_place(content: bytes, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refusal:
        decoded(content, "a.txt")
    assert "Save it in UTF-8" in str(refusal.value)
