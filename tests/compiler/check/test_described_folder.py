"""The folder of a graph says how its model reads text."""

from __future__ import annotations

from pathlib import Path

import pytest

from castline.compiler.check.described_folder import DescribedFolder
from castline.errors import CheckpointError


def test_configuration_and_tokenizer_are_those_of_the_checkpoint(exported: Path) -> None:
    folder = DescribedFolder(exported)
    assert folder.config.vocab_size == 160
    assert folder.tokenizer()("w0 w1")["input_ids"] == [3, 4]


def test_a_folder_without_them_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        _ = DescribedFolder(tmp_path).config
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        DescribedFolder(tmp_path).tokenizer()
