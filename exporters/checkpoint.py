"""Open a checkpoint from a folder, a GGUF file or the Hub: names first, tensors one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from castline.errors import CheckpointError
from castline.exporters.readers import hub
from castline.exporters.readers.config_file import read_config
from castline.exporters.readers.converted import ConvertedReader
from castline.exporters.readers.gguf_file import GgufReader
from castline.exporters.readers.gguf_header import MAGIC
from castline.exporters.readers.mapped import opened
from castline.exporters.readers.quantization import side_files, stored_format
from castline.exporters.readers.quantized import QuantizedReader, refuse_unexplained
from castline.exporters.readers.shards import open_weights
from castline.exporters.readers.stored import StoredMatrix, StoredScheme
from castline.exporters.readers.stored_codes import CodesOfReader, StoredCodes
from castline.exporters.readers.tensors import (
    Array,
    Indices,
    TensorReader,
    TensorSpec,
    non_finite_count,
)
from castline.exporters.readers.tokenizer import (
    FolderTokenizer,
    GgufTokenizer,
    TokenizerSource,
    writing_to,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

__all__ = ["Checkpoint", "TensorSpec", "is_on_hub", "open_checkpoint"]

_CONFIG = "config.json"
_HASH_BLOCK = 8 << 20  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """A model's configuration, the names of its tensors, and the way to read each of them."""

    source: str
    """What it was opened from, as the user wrote it."""
    config: PretrainedConfig
    reader: TensorReader
    tokenizer_source: TokenizerSource
    config_file: Path | None
    """The config.json it was opened with; None where the weight file holds the configuration."""
    codes: StoredCodes | None = None
    """The way to what is stored quantized; None where nothing is."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Stored tensors that no model has a place for, and why."""
    side_files: tuple[Path, ...] = ()
    """Files that say, beside config.json or in its place, how the weights are quantized."""

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """Shape and dtype of every tensor under its Hugging Face parameter name."""
        return self.reader.tensors

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the weights, in name order."""
        return self.reader.files

    def read(self, name: str) -> Array:
        """Return one tensor in the shape and dtype of its spec; KeyError for an unknown name.

        The array is the caller's own, though its pages may be mapped from the file. Raises
        CheckpointError when it holds NaN or Inf, or when its file changed since it was opened.
        """
        spec = self.tensors[name]
        array = self.reader.read(name)
        assert (array.shape, array.dtype) == (spec.shape, spec.dtype), f"reader broke {name}'s spec"
        if not isinstance(self.reader, ConvertedReader):  # it reads by way of a checkpoint itself
            self._require_finite(name, array)
        return array

    def rows_of(self, name: str) -> Callable[[Indices], Array]:
        """Return what gives rows [n, ...] of a tensor for indices [n] along its first axis.

        What is stored as it is, is read where the rows lie alone; it stays open as long as what is
        returned. That raises CheckpointError for rows that hold NaN or Inf.
        """
        if isinstance(self.reader, ConvertedReader):
            return self.reader.rows_of(name)
        array = self.reader.read(name)

        def rows(indices: Indices) -> Array:
            chosen: Array = array[indices]
            self._require_finite(name, chosen)
            return chosen

        return rows

    def parts(self, name: str) -> Iterator[Array]:
        """Yield a tensor in parts [n, ...] along its first axis, each read when it is due.

        A stack of experts comes expert by expert, any other tensor as one part. Raises as `read`.
        """
        if isinstance(self.reader, ConvertedReader):
            yield from self.reader.parts(name)
        else:
            yield self.read(name)

    def _require_finite(self, name: str, array: Array) -> None:
        if count := non_finite_count(array):
            raise CheckpointError(
                f"{self.reader.file_of(name)}: {name} holds {count} of {array.size} values that "
                "are NaN or Inf. Nothing sound can be compiled from them; get the checkpoint again."
            )

    @property
    def quantized(self) -> Mapping[str, StoredScheme]:
        """How each parameter is stored whose codes can be had; `read` gives what they stand for.

        Empty for a checkpoint in float.
        """
        return {} if self.codes is None else self.codes.schemes

    @property
    def dequantized(self) -> Mapping[str, str]:
        """Why only values can be had of other parameters that are stored quantized, by name."""
        return {} if self.codes is None else self.codes.dequantized

    def matrix(self, name: str) -> StoredMatrix:
        """Return the codes of one [N, K] of `quantized`; KeyError for a name that is not there.

        Raises CheckpointError for what cannot be: scales that are NaN or Inf, groups that do not
        fit.
        """
        assert len(self.tensors[name].shape) == 2, f"{name} is a stack: ask for its matrices"
        return next(self.matrices(name))

    def matrices(self, name: str) -> Iterator[StoredMatrix]:
        """Yield the matrix of one of `quantized`, of a stack [E, N, K] all E in order.

        Each is read when it is due. Raises as `matrix`.
        """
        if self.codes is None:
            raise KeyError(name)
        yield from self.codes.matrices(name)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the checkpoint's tokenizer, loaded once. Raises CheckpointError without one."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self.tokenizer_source.load()

    def save_tokenizer(self, folder: Path) -> tuple[str, ...]:
        """Write tokenizer and generation settings into an existing folder; return the file names.

        Raises CheckpointError without a tokenizer, OutputError when a file cannot be written.
        """
        return self.tokenizer_source.save(folder)

    def save_config(self, folder: Path) -> tuple[str, ...]:
        """Write config.json, without any quantization_config, into an existing folder.

        Returns the names of the files written. Raises OutputError when it cannot be written.
        """
        fields = json.loads(self.config.to_json_string())
        fields.pop("quantization_config", None)
        with writing_to(folder):
            text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False)
            (folder / _CONFIG).write_text(text + "\n", encoding="utf-8")
        return (_CONFIG,)

    def sha256(self, advance: Callable[[int], None] | None = None) -> str:
        """Return the SHA-256, in hex, of the weight files in name order and then config.json.

        Then come the side files. The files' bytes follow one another without separators, so for a
        checkpoint of one file and no config.json this is the file's own SHA-256. `advance` is told
        the bytes of each block that was read; `hashed_bytes` is their sum.
        """
        digest = hashlib.sha256()
        for path in self._hashed_files:
            with opened(path) as file:
                while block := file.read(_HASH_BLOCK):
                    digest.update(block)
                    if advance is not None:
                        advance(len(block))
        return digest.hexdigest()

    @property
    def hashed_bytes(self) -> int:
        """How many bytes `sha256` reads."""
        return sum(path.stat().st_size for path in self._hashed_files)

    @property
    def _hashed_files(self) -> tuple[Path, ...]:
        if self.config_file is None:
            return self.files
        return (*self.files, self.config_file, *self.side_files)


def open_checkpoint(source: str | Path, *, trust_remote_code: bool = False) -> Checkpoint:
    """Open a Hugging Face folder, a GGUF file, or a model of the Hub by its id, org/name.

    Only names, shapes and dtypes are read. A text that exists as a path, begins with a dot, a slash
    or a tilde, or ends in .gguf is a path, and so is every Path; only other texts are looked up on
    the Hub. Nothing of the checkpoint is executed unless `trust_remote_code` allows the Python code
    it brings. Raises CheckpointError for whatever cannot be found, read or trusted,
    UnsupportedArchitectureError for a model type that transformers does not know.
    """
    path = _expanded(source)
    if path.is_dir():
        return _open_folder(path, str(source), trust_remote_code)
    if path.is_file():
        return _open_file(path, str(source))
    if is_on_hub(source):
        folder = hub.download(str(source), trust_remote_code=trust_remote_code)
        return _open_folder(folder, str(source), trust_remote_code)
    raise CheckpointError(
        f"{source} does not exist. Name a folder with config.json and weights, a GGUF file, or a "
        "model of the Hub by its id, org/name."
    )


def is_on_hub(source: str | Path) -> bool:
    """Return whether `open_checkpoint` looks a source up on the Hub, and so may download it."""
    return isinstance(source, str) and hub.is_hub_id(source) and not _expanded(source).exists()


def _expanded(source: str | Path) -> Path:
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, the home of nobody
        raise CheckpointError(f"{source} can be no path: {str(error).rstrip('.')}.") from error
    return path


def _open_folder(folder: Path, source: str, trust_remote_code: bool) -> Checkpoint:
    quantization = stored_format(folder)
    config = read_config(folder, trust_remote_code=trust_remote_code)
    tokenizer = FolderTokenizer(folder, trust_remote_code=trust_remote_code)
    weights = open_weights(folder)
    if quantization is None:
        refuse_unexplained(weights)
        return Checkpoint(source, config, weights, tokenizer, folder / _CONFIG)
    reader = QuantizedReader(weights, quantization)
    return Checkpoint(
        source,
        config,
        reader,
        tokenizer,
        folder / _CONFIG,
        CodesOfReader(reader),
        reader.left_out,
        side_files(folder),
    )


def _open_file(path: Path, source: str) -> Checkpoint:
    if path.suffix != ".gguf" and not _begins_with_magic(path):
        raise CheckpointError(
            f"{path} is no GGUF file. For safetensors and .bin weights name their folder, "
            f"{path.parent}, which must hold config.json too."
        )
    reader = GgufReader(path)
    config = reader.config()
    codes = CodesOfReader(reader)
    return Checkpoint(source, config, reader, GgufTokenizer(path, config), None, codes)


def _begins_with_magic(path: Path) -> bool:
    with opened(path) as file:
        return file.read(len(MAGIC)) == MAGIC
