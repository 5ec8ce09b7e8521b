from __future__ import annotations

from typing import get_args

from castline.cli.options import Dtype
from castline.compiler.opening import AS_STORED, DTYPES


def test_offers_every_dtype_that_the_compiler_takes() -> None:
    assert get_args(Dtype) == (*DTYPES, AS_STORED)
