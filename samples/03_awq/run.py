"""Search INT4 weights with AWQ, show what it decided, and use the plan for two targets."""

from __future__ import annotations

import sys
from pathlib import Path

from castline.compiler.pipeline import compile_model
from castline.compiler.planning import quantize_model
from castline.compiler.recipes.load import load_recipe
from castline.errors import CastlineError

SAMPLES = 8  # of calibration text; the default of 32 takes four times as long
SHOWN = 4


def main(model: str, output: Path, *overrides: str) -> None:
    samples = f"calibration.samples={SAMPLES}"
    recipe = load_recipe("w4a16-awq", overrides=[samples, *overrides])
    outcome = quantize_model(model, output / "plan", recipe=recipe)
    for site in outcome.plan.sites[:SHOWN]:
        if site.alpha is not None and site.error is not None and site.error_before is not None:
            judged = site.inspected or "its linears"
            print(
                f"{site.site}: alpha {site.alpha:g} takes the error of {judged} "
                f"from {site.error_before:.2%} to {site.error:.2%}"
            )

    for target in ("onnxruntime", "huggingface"):
        compiled = compile_model(
            model,
            output / target,
            recipe=recipe,
            plan=output / "plan",
            target=target,
            threads=2,
            allow_lossy=True,  # a GGUF file of 4 bits may be quantized anew
        )
        if compiled.language is not None:
            figures = compiled.language
            print(
                f"{target}: {compiled.bytes / 1e6:.0f} MB, perplexity {figures.perplexity:.2f}, "
                f"original {figures.perplexity_original:.2f}"
            )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL OUT [FIELD=VALUE ...]")
    try:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except CastlineError as error:
        sys.exit(f"error: {error}")
