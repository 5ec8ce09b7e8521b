"""The C++ program on a real engine: the tokens of the graph that the engine was built from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from castline.compiler.targets.session import DecoderSession

pytestmark = pytest.mark.gpu

SAMPLE = Path(__file__).resolve().parents[3] / "samples" / "07_engine_in_cpp"
EDITIONS = {"libtensorrt_rtx.so.1": "tensorrt-rtx", "libnvinfer.so.10": "tensorrt"}
PROMPT = [41, 74, 70, 1, 84]


@pytest.mark.parametrize("cache", ["growing", "fixed"])
def test_tokens_are_those_of_the_graph(cache: str, tiny_model: Path, tmp_path: Path) -> None:
    if "TENSORRT_ROOT" not in os.environ:
        pytest.skip("set TENSORRT_ROOT to an SDK of TensorRT or TensorRT-RTX")
    root = Path(os.environ["TENSORRT_ROOT"])
    library = next(root / "lib" / name for name in EDITIONS if (root / "lib" / name).exists())
    out, build = tmp_path / "out", tmp_path / "build"
    castline = Path(sys.executable).with_name("castline")
    compile_it = [castline, "compile", tiny_model, "-r", "float"]
    options = ["-t", EDITIONS[library.name], "--kv-cache", cache, "--logits", "last", "-o", out]
    subprocess.run([*compile_it, *options], check=True)
    configure = ["cmake", "-S", SAMPLE, "-B", build, f"-DTENSORRT_ROOT={root}"]
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    command = [build / "engine_in_cpp", out, *map(str, PROMPT), "--tokens", "8"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    session = DecoderSession.open(out / "model.onnx")
    wanted = session.generate(np.array([PROMPT], dtype=np.int64), max_new_tokens=8)
    assert [int(line) for line in done.stdout.split()] == list(wanted)
