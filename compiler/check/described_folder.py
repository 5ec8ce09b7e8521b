"""Read the text side of a folder with a graph: its configuration and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from castline.exporters.readers.config_file import read_config
from castline.exporters.readers.tokenizer import FolderTokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class DescribedFolder:
    """A folder with config.json and a tokenizer, whatever weights are beside them."""

    folder: Path

    @cached_property
    def config(self) -> PretrainedConfig:
        """Raises CheckpointError where config.json is missing or broken."""
        return read_config(self.folder, trust_remote_code=False)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer. Raises CheckpointError where there is none that works."""
        return FolderTokenizer(self.folder, trust_remote_code=False).load()
