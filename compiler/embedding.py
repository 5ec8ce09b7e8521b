"""Turn texts into vectors with a compiled encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from castline.compiler.check.encoding import padded_batches
from castline.compiler.package.sentence_pooling import SentencePooling, sentence_pooling
from castline.compiler.targets.encoder_session import EncoderSession
from castline.errors import OutputError

Vectors: TypeAlias = NDArray[np.float32]

_TOKENIZER = "tokenizer.json"
_NO_MODULES = (
    "the folder has no modules.json of sentence-transformers, so a text's vector is the mean of "
    "its tokens' vectors"
)


@dataclass(frozen=True)
class Embeddings:
    """The vectors of texts, [texts, width], and what is worth knowing of them."""

    vectors: Vectors
    notes: tuple[str, ...]

    def cosines(self) -> Vectors:
        """Return how alike every two texts are, [texts, texts]."""
        unit = self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True)
        alike: Vectors = unit @ unit.T
        return alike


def embed_texts(path: Path, texts: Sequence[str], *, threads: int | None = None) -> Embeddings:
    """Return the vectors of `texts`, at least one, from an encoder's folder, or its .onnx file.

    They are pooled as the sentence-transformers files there say, and by the mean without such.
    Longer texts than the model takes are cut. The graph runs on ONNX Runtime, that of an engine,
    too. Raises TargetError where the folder has no encoder, OutputError for broken files.
    """
    session = EncoderSession.open(path, threads=threads)
    folder = path if path.is_dir() else path.parent
    found = sentence_pooling(folder)
    pooling = found or SentencePooling()
    tokenizer = _tokenizer(folder / _TOKENIZER)
    limits = [most for most in (pooling.max_tokens, session.context_length) if most is not None]
    if limits:
        tokenizer.enable_truncation(min(limits))
    encoded = [tokenizer.encode(_prepared(text, pooling)) for text in texts]
    vectors = [
        pooling.pooled(session.hidden(ids, mask), mask)
        for ids, mask in padded_batches([np.array(one.ids, np.int64) for one in encoded], 0)
    ]
    return Embeddings(np.concatenate(vectors), tuple(_notes(folder, encoded, found)))


def _prepared(text: str, pooling: SentencePooling) -> str:
    return pooling.prompt + (text.lower() if pooling.lower_case else text)


def _tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise OutputError(
            f"{path} does not exist, so no text can be turned into tokens. Give a folder that "
            "castline compile or castline export wrote."
        )
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except ValueError as error:
        raise OutputError(f"{path}: not a tokenizer: {error}. Compile the model again.") from error
    tokenizer.no_padding()  # some files fill every text up
    tokenizer.no_truncation()
    return tokenizer


def _notes(folder: Path, encoded: Sequence[Encoding], pooling: SentencePooling | None) -> list[str]:
    notes = [] if pooling is not None else [_NO_MODULES]
    if cut := sum(bool(one.overflowing) for one in encoded):
        longest = max(len(one.ids) for one in encoded)
        notes.append(
            f"{cut} of {len(encoded)} texts are longer than {longest} tokens, and were cut"
        )
    if engines := sorted(folder.glob("*.engine")):
        notes.append(
            f"{engines[0].name} was not run: the vectors are of the graph that it was built from, "
            "on ONNX Runtime"
        )
    return notes
