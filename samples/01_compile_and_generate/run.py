"""Compile a checkpoint to INT4 and continue a text with it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from castline.compiler.pipeline import compile_model
from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.session import DecoderSession
from castline.errors import CastlineError

PROMPT = "It is a truth universally acknowledged, that"


def main(model: str, output: Path) -> None:
    recipe = load_recipe("w4a16-rtn", overrides=["weights.group_size=64"])
    outcome = compile_model(model, output, recipe=recipe, target="onnxruntime", threads=2)
    if outcome.language is not None:
        figures = outcome.language
        print(f"perplexity {figures.perplexity:.1f}, original {figures.perplexity_original:.1f}")
    for note in outcome.notes:
        print(f"note: {note}")

    tokenizer = AutoTokenizer.from_pretrained(output)
    prompt = np.array([tokenizer(PROMPT)["input_ids"]], dtype=np.int64)
    session = DecoderSession.open(output, threads=2)
    print(PROMPT + tokenizer.decode(list(session.generate(prompt, max_new_tokens=16))))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL OUT")
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except CastlineError as error:
        sys.exit(f"error: {error}")
