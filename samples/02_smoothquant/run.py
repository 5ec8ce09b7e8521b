"""Search a SmoothQuant plan, show what it decided, and compile it for two targets."""

from __future__ import annotations

import sys
from pathlib import Path

from castline.compiler.pipeline import compile_model
from castline.compiler.planning import quantize_model
from castline.compiler.recipes.load import load_recipe
from castline.errors import CastlineError

SAMPLES = 8  # of calibration text; the default of 32 takes four times as long
SHOWN = 3


def main(model: str, output: Path, *overrides: str) -> None:
    samples = f"calibration.samples={SAMPLES}"
    recipe = load_recipe("w8a8-smoothquant", overrides=[samples, *overrides])
    outcome = quantize_model(model, output / "plan", recipe=recipe)
    print(f"{len(outcome.quantized)} linears quantized, scales folded at {outcome.folded} sites")
    for linear in outcome.worst(SHOWN):
        print(
            f"{linear.name}: largest input {linear.peak_before:.3g}, {linear.peak_after:.3g} "
            f"once folded; output {linear.output_sqnr:.1f} dB above its noise"
        )

    for target in ("onnx", "onnxruntime"):
        compiled = compile_model(
            model, output / target, recipe=recipe, plan=output / "plan", target=target, threads=2
        )
        if compiled.language is not None:
            figures = compiled.language
            print(
                f"{target}: perplexity {figures.perplexity:.2f}, "
                f"original {figures.perplexity_original:.2f}"
            )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL OUT [FIELD=VALUE ...]")
    try:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except CastlineError as error:
        sys.exit(f"error: {error}")
