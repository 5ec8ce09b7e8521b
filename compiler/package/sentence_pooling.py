"""Make one vector of a text's token vectors, as the files of sentence-transformers say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.package.sentence_modules import MODULES
from castline.errors import OutputError

Vectors: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.int64]

_MODE = "pooling_mode_"


@dataclass(frozen=True)
class SentencePooling:
    """How texts become vectors, and what is done to texts before."""

    modes: tuple[str, ...] = ("mean_tokens",)
    """Names of `POOLINGS`; the vectors of several stand behind one another."""
    normalized: bool = False
    max_tokens: int | None = None
    lower_case: bool = False
    prompt: str = ""
    """What stands before every text."""

    def pooled(self, hidden: Vectors, mask: Mask) -> Vectors:
        """Return [B, width] for vectors [B, S, hidden]; `mask` [B, S] is 0 for padding."""
        vectors = np.concatenate([POOLINGS[mode](hidden, mask) for mode in self.modes], axis=1)
        if not self.normalized:
            return vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = vectors / np.maximum(lengths, 1e-12)
        return unit


def _of_first(hidden: Vectors, mask: Mask) -> Vectors:
    return _at(hidden, mask.argmax(axis=1))


def _of_last(hidden: Vectors, mask: Mask) -> Vectors:
    return _at(hidden, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1))


def _at(hidden: Vectors, places: Mask) -> Vectors:
    chosen: Vectors = hidden[np.arange(len(hidden)), places]
    return chosen


def _largest(hidden: Vectors, mask: Mask) -> Vectors:
    largest: Vectors = np.where(mask[..., None] == 1, hidden, -np.inf).max(axis=1)
    return largest.astype(np.float32)


def _mean(hidden: Vectors, mask: Mask) -> Vectors:
    return _weighted(hidden, mask, mask.sum(axis=1))


def _mean_of_root(hidden: Vectors, mask: Mask) -> Vectors:
    return _weighted(hidden, mask, np.sqrt(mask.sum(axis=1)))


def _mean_by_place(hidden: Vectors, mask: Mask) -> Vectors:
    weights = mask * np.arange(1, mask.shape[1] + 1)
    return _weighted(hidden, weights, weights.sum(axis=1))


def _weighted(hidden: Vectors, weights: NDArray[np.generic], total: NDArray[np.generic]) -> Vectors:
    summed = np.einsum("bsh,bs->bh", hidden, weights.astype(np.float32))
    means: Vectors = summed / total[:, None].astype(np.float32)
    return means


# By their names in 1_Pooling/config.json, in the order in which sentence-transformers joins them.
POOLINGS: Mapping[str, Callable[[Vectors, Mask], Vectors]] = {
    "cls_token": _of_first,
    "max_tokens": _largest,
    "mean_tokens": _mean,
    "mean_sqrt_len_tokens": _mean_of_root,
    "weightedmean_tokens": _mean_by_place,
    "lasttoken": _of_last,
}


def sentence_pooling(folder: Path) -> SentencePooling | None:
    """Return what the files beside a model say of its texts; None where there is no modules.json.

    Raises OutputError for a module or a pooling that is not known, and for broken files.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = [(_kind(module), str(module.get("path", ""))) for module in _modules(folder)]
    strange = [kind for kind, _ in modules if kind not in ("Transformer", "Pooling", "Normalize")]
    if strange:
        raise OutputError(
            f"{folder / MODULES}: has the module {', '.join(strange)}. castline embed knows "
            "Transformer, Pooling and Normalize; load the vectors into sentence-transformers."
        )
    pools = [path for kind, path in modules if kind == "Pooling"]
    settings = _object(folder / "sentence_bert_config.json")
    longest = settings.get("max_seq_length")
    return SentencePooling(
        modes=_modes(folder / pools[0] / "config.json") if pools else ("mean_tokens",),
        normalized=any(kind == "Normalize" for kind, _ in modules),
        max_tokens=longest if isinstance(longest, int) else None,
        lower_case=settings.get("do_lower_case") is True,
        prompt=_prompt(_object(folder / "config_sentence_transformers.json")),
    )


def _modules(folder: Path) -> list[Mapping[str, object]]:
    document = _json(folder / MODULES)
    if not isinstance(document, list) or not all(isinstance(one, dict) for one in document):
        raise OutputError(f"{folder / MODULES}: expected a list of modules. Compile again.")
    return document


def _kind(module: Mapping[str, object]) -> str:
    """Return the class of a module; where only its folder is named, what that says."""
    named = str(module.get("type") or str(module.get("path", "")).partition("_")[2])
    return named.rpartition(".")[2] or "Transformer"


def _modes(path: Path) -> tuple[str, ...]:
    asked = [
        name.removeprefix(_MODE)
        for name, wanted in _object(path).items()
        if name.startswith(_MODE) and wanted is True
    ]
    unknown = [mode for mode in asked if mode not in POOLINGS]
    if unknown or not asked:
        raise OutputError(
            f"{path}: asks for {', '.join(unknown) or 'no pooling'}; expected one of "
            f"{', '.join(_MODE + mode for mode in POOLINGS)}, set to true."
        )
    return tuple(mode for mode in POOLINGS if mode in asked)


def _prompt(settings: Mapping[str, object]) -> str:
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    found = prompts.get(name) if isinstance(prompts, dict) else None
    return found if isinstance(found, str) else ""


def _object(path: Path) -> Mapping[str, object]:
    """Return a settings file that may be absent: {} then."""
    document = _json(path) if path.is_file() else {}
    if not isinstance(document, dict):
        raise OutputError(f"{path}: expected a JSON object. Compile the model again.")
    return document


def _json(path: Path) -> object:
    try:
        document: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path}: expected JSON: {error}. Compile the model again.") from error
    return document
