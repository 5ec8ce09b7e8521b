"""Write the tokens that every tool of accuracy.py calibrates on and is judged by, as .npy files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from accuracy_cases import CALIBRATION

from castline.compiler.calibration.text import load_text
from castline.compiler.calibration.windows import token_windows
from castline.compiler.planning import read_samples
from castline.compiler.recipes.load import load_recipe
from castline.exporters.checkpoint import open_checkpoint
from castline.progress import SilentProgress

RECIPE = "w8a8-smoothquant"  # all of ours read the same text
WINDOWS, LENGTH = 16, 512  # half of the shipped evaluation text


def write_tokens(model: Path, calibration: Path, evaluation: Path) -> None:
    """Write the samples [samples, length] that our recipes read, and the windows."""
    checkpoint = open_checkpoint(str(model))
    samples = read_samples(checkpoint, load_recipe(RECIPE, [CALIBRATION]), SilentProgress())
    np.save(calibration, samples.tokens)
    text = load_text(None, "evaluation")
    windows = token_windows(checkpoint.tokenizer(), text, length=LENGTH, count=WINDOWS)
    np.save(evaluation, windows)


if __name__ == "__main__":
    write_tokens(*map(Path, sys.argv[1:4]))
