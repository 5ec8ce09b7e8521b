"""Build TensorRT-RTX engines whose linears are our plugins, and show that they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from castline.compiler.package.engine_plugins import load_engine_plugins
from castline.compiler.pipeline import compile_model
from castline.compiler.recipes.load import load_recipe
from castline.errors import CastlineError

RECIPES = ("w4a16-awq", "w8a8-smoothquant", "w4a4-qllm")
SHORT = {  # so that it ends in minutes: fewer samples than the presets take
    "w4a16-awq": ("calibration.samples=4",),
    "w8a8-smoothquant": ("calibration.samples=4",),
}
SHORT_QLLM = ("calibration.samples=4", "correction.epochs=1")


def main(model: str, output: Path, *words: str) -> None:
    overrides = [word for word in words if "=" in word]
    recipes = [word for word in words if "=" not in word] or list(RECIPES)
    for name in recipes:
        build(model, output / name, name, overrides)


def build(model: str, folder: Path, name: str, overrides: list[str]) -> None:
    short = SHORT_QLLM if name.endswith("qllm") else SHORT.get(name, ())
    recipe = load_recipe(name, overrides=[*short, *overrides])
    compiled = compile_model(model, folder, recipe=recipe, target="tensorrt-rtx", threads=2)
    import tensorrt_rtx  # noqa: PLC0415 - compile_model says how to install it

    built = json.loads((folder / "manifest.json").read_text())["build"]
    plugins = built["plugins"]
    print(f"{name}: engine of {(folder / built['engine']).stat().st_size / 1e6:.0f} MB")
    for op, count in sorted(plugins["layers"].items()):
        print(f"  {count} layers are {op}")
    library = load_engine_plugins(folder, tensorrt_rtx)  # as who runs the engine must
    print(f"  registered from {library}, compiled for {', '.join(plugins['architectures'])}")
    if compiled.language is not None:
        figures = compiled.language
        print(
            f"  perplexity {figures.perplexity:.2f}, original {figures.perplexity_original:.2f}, "
            "of the file that the engine was built from"
        )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} MODEL OUT [RECIPE ...] [FIELD=VALUE ...]")
    try:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except CastlineError as error:
        sys.exit(f"error: {error}")
