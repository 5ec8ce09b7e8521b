"""Decode the bytes of a text file, in the encodings that can be told apart for certain."""

from __future__ import annotations

import codecs

from castline.errors import RecipeError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_MEND = "Save it in UTF-8, for instance by iconv -f ENCODING -t UTF-8."


def decoded(content: bytes, where: str) -> str:
    """Return the text of a file that `where` names, its lines ended by line feeds alone.

    It is UTF-8, or what its byte order mark says: UTF-8 or UTF-16. Raises RecipeError, with the
    offset of the first byte that does not fit, for anything else. UTF-16 without a mark is refused
    by its zero bytes: read as UTF-8 it would be letters and zeros by turns.
    """
    mark, encoding, name = next(
        (known for known in _MARKS if content.startswith(known[0])), (b"", "utf-8", "UTF-8")
    )
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        offset = len(mark) + error.start
        raise RecipeError(
            f"{where}: byte 0x{content[offset]:02x} at offset {offset} is not text in {name}, and "
            f"no other encoding is certain. {_MEND}"
        ) from error
    if "\0" in text:
        offset = len(mark) + len(text[: text.index("\0")].encode(encoding))
        raise RecipeError(
            f"{where}: byte 0x00 at offset {offset}: not text in UTF-8, but perhaps in UTF-16 "
            f"without a byte order mark, or no text at all. {_MEND}"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")
