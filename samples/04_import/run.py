"""Say how a quantized checkpoint stores its linears, and compile them as they are."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from castline.compiler.pipeline import compile_model
from castline.compiler.recipes.load import load_recipe
from castline.errors import CastlineError
from castline.exporters.checkpoint import open_checkpoint


def main(model: str, output: Path, *overrides: str) -> None:
    checkpoint = open_checkpoint(model)
    for scheme, count in Counter(checkpoint.quantized.values()).most_common():
        zeros = "symmetric" if scheme.symmetric else "zero-points"
        group = scheme.group_size
        size = f"groups of {group}" if isinstance(group, int) else group
        print(f"{count} linears: {scheme.bits} bits, {size}, {zeros}")
    for reason, count in Counter(checkpoint.dequantized.values()).most_common():
        print(f"{count} tensors are read as values: {reason}")

    recipe = load_recipe("as-stored", overrides=overrides)
    compiled = compile_model(model, output, recipe=recipe, target="onnxruntime", threads=2)
    for note in compiled.notes:
        print(note)
    if compiled.language is not None:
        figures = compiled.language
        print(
            f"perplexity {figures.perplexity:.3f}, of the checkpoint's own values "
            f"{figures.perplexity_original:.3f}"
        )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL OUT [FIELD=VALUE ...]")
    try:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except CastlineError as error:
        sys.exit(f"error: {error}")
