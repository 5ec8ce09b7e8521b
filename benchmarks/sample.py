"""Provide the measured model: SmolLM2-135M as an fp16 Hugging Face folder, whole or cut."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build" / "benchmarks"
NAME = "SmolLM2-135M-Instruct"
WHOLE = 30  # its layers


def sample_model(layers: int = WHOLE) -> Path:
    """Return a folder with the model cut to its first `layers` layers; made when first asked for.

    The work is done in a child process, so that the caller stays small (see process.py).
    """
    folder = BUILD / "models" / f"{NAME}-{layers}-layers"
    if not folder.exists():
        script = Path(__file__).with_name("prepare.py")
        subprocess.run([sys.executable, str(script), str(folder), str(layers)], check=True)
    return folder


def fresh(folder: Path) -> Path:
    """Return `folder` with nothing there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder
