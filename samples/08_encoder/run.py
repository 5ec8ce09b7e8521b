"""Compile an encoder, say how near its vectors are to the original's, and compare texts."""

from __future__ import annotations

import sys
from pathlib import Path

from castline.compiler.embedding import embed_texts
from castline.compiler.pipeline import compile_model
from castline.compiler.recipes.load import load_recipe
from castline.errors import CastlineError

TEXTS = ("A cat sits on the mat.", "There is a kitten on the rug.", "Stocks fell sharply.")
TARGET, RECIPE = "onnxruntime", "w8a16-rtn"


def main(model: str, output: Path, *words: str) -> None:
    overrides = [word for word in words if "=" in word]
    chosen = [word for word in words if "=" not in word]
    target, recipe = (*chosen, *(TARGET, RECIPE)[len(chosen) :])
    asked = load_recipe(recipe, overrides=overrides)
    outcome = compile_model(model, output, recipe=asked, target=target, threads=2)
    if outcome.encoding is not None:
        figures = outcome.encoding
        print(
            f"cosine with the original: tokens {figures.hidden_cosine:.4f}, "
            f"texts {figures.embedding_cosine:.4f}; order of similarities "
            f"{figures.similarity_correlation:.4f}"
        )
    for note in outcome.notes:
        print(f"note: {note}")

    found = embed_texts(output, TEXTS, threads=2)
    for place, text in enumerate(TEXTS[1:], start=1):
        print(f"{found.cosines()[0, place]:.3f}  {TEXTS[0]} | {text}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL OUT [TARGET [RECIPE]] [FIELD=VALUE ...]")
    try:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except CastlineError as error:
        sys.exit(f"error: {error}")
