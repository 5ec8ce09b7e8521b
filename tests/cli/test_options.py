from __future__ import annotations

from typing import get_args

import pytest
import typer

from castline.cli.options import Dtype, utf8_alone
from castline.compiler.opening import AS_STORED, DTYPES


def test_offers_every_dtype_that_the_compiler_takes() -> None:
    assert get_args(Dtype) == (*DTYPES, AS_STORED)


def test_texts_are_utf8() -> None:
    assert utf8_alone("Grüße") == "Grüße"
    assert utf8_alone(["", "ü"]) == ["", "ü"]
    with pytest.raises(typer.BadParameter, match="is not UTF-8 text"):
        utf8_alone(["a", "\udcff"])
