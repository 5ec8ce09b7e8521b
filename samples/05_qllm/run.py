"""Take outlier channels apart by QLLM, show what it decided, and compile the plan."""

from __future__ import annotations

import sys
from pathlib import Path

from castline.compiler.pipeline import compile_model
from castline.compiler.planning import quantize_model
from castline.compiler.recipes.load import load_recipe
from castline.errors import CastlineError

SHORT = ("calibration.samples=8", "correction.epochs=2")  # of 32 and 10: a twentieth of the steps
SHOWN = 4
TARGET = "onnxruntime"


def main(model: str, output: Path, *overrides: str) -> None:
    recipe = load_recipe("w6a6-qllm", overrides=[*SHORT, *overrides])
    outcome = quantize_model(model, output / "plan", recipe=recipe)
    print(f"scales folded at {outcome.folded} sites, channels reassembled at {outcome.reassembled}")
    reassembled = [site for site in outcome.plan.sites if site.reassembly is not None]
    for site in reassembled[:SHOWN]:
        found = site.reassembly
        if found is not None:
            print(
                f"{site.site}: {found.channels.disassembled} channels apart by "
                f"{found.threshold:.3g}, {len(found.channels.place)} merged, error "
                f"{found.error_before:.2%} before, {found.error:.2%} after"
            )
    for window in outcome.plan.corrections:
        last = window.first + window.blocks - 1
        used = "used" if window.merged else "not used"
        print(
            f"blocks {window.first} to {last}: error {window.loss_before:.2%}, corrected "
            f"{window.loss_learned:.2%}, in codes {window.loss_merged:.2%}, {used}"
        )

    compiled = compile_model(
        model, output / TARGET, recipe=recipe, plan=output / "plan", target=TARGET, threads=2
    )
    if compiled.language is not None:
        figures = compiled.language
        print(
            f"{TARGET}: perplexity {figures.perplexity:.2f}, "
            f"original {figures.perplexity_original:.2f}"
        )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL OUT [FIELD=VALUE ...]")
    try:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except CastlineError as error:
        sys.exit(f"error: {error}")
