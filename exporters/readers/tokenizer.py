"""Load a checkpoint's tokenizer, and write its files where a compiled model goes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from castline.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "vocab.txt",
)  # fmt: skip
_COMPANIONS = (
    "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip
_SERIALIZED = "tokenizer.json"
_GENERATION = "generation_config.json"


class TokenizerSource(Protocol):
    """Where a checkpoint keeps its tokenizer."""

    def load(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer. Raises CheckpointError when there is none, or none that works."""
        ...

    def save(self, folder: Path) -> tuple[str, ...]:
        """Write the tokenizer and the generation settings into a folder; return the file names.

        Raises CheckpointError without a tokenizer, OutputError when a file cannot be written.
        """
        ...


class FolderTokenizer:
    """The tokenizer files of a Hugging Face folder; saved as they are, byte for byte.

    Where tokenizer.json is not among them, the loaded tokenizer is written, which makes one: what
    runs a compiled model reads that file alone.
    """

    def __init__(self, folder: Path, *, trust_remote_code: bool) -> None:
        self._folder = folder
        self._trust_remote_code = trust_remote_code

    def load(self) -> PreTrainedTokenizerBase:
        """Return what transformers makes of the files."""
        self._refuse_absent()
        from transformers import AutoTokenizer  # noqa: PLC0415 - seconds of import

        with _as_checkpoint_error(self._folder):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self._folder, trust_remote_code=self._trust_remote_code, local_files_only=True
            )
        return tokenizer

    def save(self, folder: Path) -> tuple[str, ...]:
        """Copy the files that are there, or convert them to a tokenizer.json."""
        self._refuse_absent()
        if not (self._folder / _SERIALIZED).is_file():
            return self._convert(folder)
        names = [name for name in _VOCABULARIES + _COMPANIONS if (self._folder / name).is_file()]
        with writing_to(folder):
            for name in names:
                shutil.copyfile(self._folder / name, folder / name)
        return tuple(sorted(names))

    def _convert(self, folder: Path) -> tuple[str, ...]:
        names = _save_loaded(self.load(), folder)
        settings = self._folder / _GENERATION
        if not settings.is_file():
            return tuple(sorted(names))
        with writing_to(folder):
            shutil.copyfile(settings, folder / _GENERATION)
        return tuple(sorted(names | {_GENERATION}))

    def _refuse_absent(self) -> None:
        if not any((self._folder / name).is_file() for name in _VOCABULARIES):
            raise CheckpointError(
                f"{self._folder} holds no tokenizer: it needs one of {', '.join(_VOCABULARIES)}. "
                "Add the files from the model's page."
            )
        serialized = self._folder / _SERIALIZED
        if serialized.is_file():
            _refuse_broken(serialized)


class GgufTokenizer:
    """The tokenizer that the metadata of a GGUF file describes, converted by transformers."""

    def __init__(self, path: Path, config: PretrainedConfig) -> None:
        self._path = path
        self._config = config

    def load(self) -> PreTrainedTokenizerBase:
        """Return the converted tokenizer, which takes about half a second."""
        # The class AutoTokenizer ends at too, after it has read the whole file once more for a
        # configuration that it does not use: seconds for nothing.
        from transformers import TokenizersBackend  # noqa: PLC0415 - seconds of import

        with _as_checkpoint_error(self._path):
            tokenizer: PreTrainedTokenizerBase = TokenizersBackend.from_pretrained(
                self._path.parent, gguf_file=self._path.name
            )
        return tokenizer

    def save(self, folder: Path) -> tuple[str, ...]:
        """Write the converted tokenizer, and generation settings that name its special tokens."""
        from transformers import GenerationConfig  # noqa: PLC0415 - seconds of import

        tokenizer = self.load()
        config = self._config
        settings = GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
        names = _save_loaded(tokenizer, folder)
        with writing_to(folder):
            settings.save_pretrained(folder)
        return tuple(sorted(names | {_GENERATION}))


def _save_loaded(tokenizer: PreTrainedTokenizerBase, folder: Path) -> set[str]:
    """Write a tokenizer as transformers serializes it; return the names of the files."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - as transformers

    with writing_to(folder):
        if isinstance(backend := getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
            # Written once by ourselves, since the tokenizers library, which writes it again, raises
            # a bare Exception when the disk is full.
            serialized = backend.to_str(pretty=True)
            (folder / _SERIALIZED).write_text(serialized, encoding="utf-8")
        written = [Path(name) for name in tokenizer.save_pretrained(folder)]
    return {path.name for path in written if path.is_file()}


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a failure to write into an OutputError that names the folder and the reason."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename2 or error.filename or folder} cannot be written: {error.strerror}. "
            "Make room, or choose a folder that you may write to."
        ) from error


@contextmanager
def _as_checkpoint_error(source: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ImportError,
    ) as error:
        raise CheckpointError(
            f"{source} holds no tokenizer that can be loaded: {type(error).__name__}: {error}"
        ) from error


def _refuse_broken(path: Path) -> None:
    # AutoTokenizer raises a bare Exception for these.
    from tokenizers import Tokenizer  # noqa: PLC0415 - as transformers

    try:
        serialized = path.read_bytes()
        json.loads(serialized)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}. Download it again.") from error
    try:
        Tokenizer.from_buffer(serialized)
    except ValueError as error:
        raise CheckpointError(f"{path} is no tokenizer: {error}. Download it again.") from error
