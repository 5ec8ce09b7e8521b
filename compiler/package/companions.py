"""Write what runtimes and people look for beside a model: configuration, tokenizer, size."""

from __future__ import annotations

from pathlib import Path

from castline.compiler.package.genai_config import (
    generation_settings,
    stop_tokens,
    write_genai_config,
)
from castline.compiler.targets.write import DATA, MODEL
from castline.errors import CheckpointError
from castline.exporters.checkpoint import Checkpoint


def save_companions(checkpoint: Checkpoint, folder: Path, *, shares_cache: bool) -> tuple[str, ...]:
    """Write config.json, the tokenizer and genai_config.json into `folder`; return notes.

    `shares_cache` says that past and present of the model may be one buffer.
    """
    notes = save_config_and_tokenizer(checkpoint, folder)
    stop = stop_tokens(generation_settings(folder, checkpoint.source), checkpoint.config)
    write_genai_config(folder, checkpoint.config, shares_cache=shares_cache, stop_tokens=stop)
    return notes


def save_config_and_tokenizer(checkpoint: Checkpoint, folder: Path) -> tuple[str, ...]:
    """Write config.json and the tokenizer; return a note if the checkpoint has no tokenizer.

    Raises CheckpointError when the generation settings beside the tokenizer are broken.
    """
    checkpoint.save_config(folder)
    try:
        checkpoint.save_tokenizer(folder)
    except CheckpointError as error:
        return (f"no tokenizer was written: {error}",)
    generation_settings(folder, checkpoint.source)
    return ()


def model_bytes(folder: Path) -> int:
    """Return the size of model.onnx and its weights."""
    return sum((folder / name).stat().st_size for name in (MODEL, DATA))
