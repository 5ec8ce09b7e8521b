"""Build the engine of an ONNX file by Polygraphy's loaders: MODEL ENGINE PROFILES, in JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read when Polygraphy is imported

from polygraphy.backend.trt import (
    CreateConfig,
    EngineBytesFromNetwork,
    NetworkFromOnnxPath,
    Profile,
)


def main() -> None:
    model, engine, listed = sys.argv[1:]
    profiles = []
    for shapes_of in json.loads(Path(listed).read_text(encoding="utf-8")):
        profile = Profile()
        for name, shapes in shapes_of.items():
            profile.add(name, *map(tuple, shapes))
        profiles.append(profile)
    network = NetworkFromOnnxPath(model, strongly_typed=True)
    Path(engine).write_bytes(EngineBytesFromNetwork(network, CreateConfig(profiles=profiles))())


if __name__ == "__main__":
    main()
