"""Write what runtimes and people look for beside a model: configuration, tokenizer, size."""

from __future__ import annotations

from pathlib import Path

from castline.compiler.package.genai_config import (
    generation_settings,
    stop_tokens,
    write_genai_config,
)
from castline.compiler.package.sentence_modules import save_sentence_modules
from castline.compiler.targets.options import Provider
from castline.compiler.targets.write import DATA, MODEL
from castline.errors import CheckpointError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.interface import Interface


def save_companions(
    checkpoint: Checkpoint,
    folder: Path,
    interface: Interface,
    *,
    shares_cache: bool,
    provider: Provider = "cpu",
) -> tuple[str, ...]:
    """Write all that stands beside a model with that interface into `folder`; return notes.

    A decoder also gets genai_config.json; `shares_cache` says that its past and present may be one
    buffer, and `provider` is what of ONNX Runtime the model was lowered for.
    """
    notes = save_config_and_tokenizer(checkpoint, folder)
    if not interface.cached:
        return notes
    stop = stop_tokens(generation_settings(folder, checkpoint.source), checkpoint.config)
    write_genai_config(
        folder,
        checkpoint.config,
        shares_cache=shares_cache,
        stop_tokens=stop,
        provider=provider,
    )
    return notes


def save_config_and_tokenizer(checkpoint: Checkpoint, folder: Path) -> tuple[str, ...]:
    """Write config.json, the tokenizer, and what makes sentence embeddings where there is such.

    Returns a note if the checkpoint has no tokenizer. Raises CheckpointError when the generation
    settings beside the tokenizer, or the list of sentence modules, are broken.
    """
    checkpoint.save_config(folder)
    if checkpoint.config_file is not None:
        save_sentence_modules(checkpoint.config_file.parent, folder)
    try:
        checkpoint.save_tokenizer(folder)
    except CheckpointError as error:
        return (f"no tokenizer was written: {error}",)
    generation_settings(folder, checkpoint.source)
    return ()


def model_bytes(folder: Path) -> int:
    """Return the size of model.onnx and its weights."""
    return sum((folder / name).stat().st_size for name in (MODEL, DATA))
