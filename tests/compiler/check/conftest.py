"""Hand out the float graph of a tiny decoder, and both sides of a comparison with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.check.any_pair import Sides, described
from castline.compiler.check.evaluation_text import held_out_text
from castline.compiler.check.model_kind import named_model
from castline.compiler.pipeline import export_model


@pytest.fixture(scope="session")
def exported(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny Llama's float graph."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    export_model(source, folder)
    return folder


@pytest.fixture(scope="session")
def sides(short_text: str) -> Callable[..., Sides]:
    """Return what opens the two sides of a comparison on a short text."""

    def opened(original: str | Path, result: str | Path, text: str = short_text) -> Sides:
        one = named_model(original)
        reader = described(one)
        return Sides(one, named_model(result), reader, held_out_text(reader, text), threads=1)

    return opened


@pytest.fixture(scope="session")
def short_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file with one window of words that the tiny decoders know."""
    file = tmp_path_factory.mktemp("short") / "text.txt"
    file.write_text(" ".join(f"w{i * i % 157}" for i in range(520)))
    return str(file)


@pytest.fixture(scope="session")
def quantized(published: tuple[Any, Path]) -> Path:
    """Return the folder of the tiny Llama with weights of 4 bits."""
    return published[1]
