"""Build the engine of an ONNX file as Castline does: MODEL ENGINE PROFILES, which are JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from castline.compiler.targets.tensorrt.build import build_engine
from castline.compiler.targets.tensorrt.shape_flags import Shapes
from castline.progress import SilentProgress


def main() -> None:
    model, engine, profiles = map(Path, sys.argv[1:])
    build_engine(
        model,
        engine,
        profiles=[
            {name: Shapes(*map(tuple, shapes)) for name, shapes in profile.items()}
            for profile in json.loads(profiles.read_text(encoding="utf-8"))
        ],
        progress=SilentProgress(),
    )


if __name__ == "__main__":
    main()
