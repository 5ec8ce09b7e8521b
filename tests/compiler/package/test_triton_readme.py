"""Who serves a package reads there how."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.package.triton_config import TritonModel, TritonTensor
from castline.compiler.package.triton_readme import readme_text
from castline.compiler.targets.runtime import EXACT_SUMS

IDS = TritonTensor("input_ids", "TYPE_INT64", (-1,))
CACHES = tuple(
    TritonTensor(f"past_key_values.{layer}.key", "TYPE_FP16", (2, -1, 64)) for layer in range(3)
)
DECODER = TritonModel(
    name="tiny",
    backend="onnxruntime",
    max_batch_size=1,
    joins_requests=False,
    inputs=(IDS, *CACHES),
    outputs=(TritonTensor("logits", "TYPE_FP16", (-1, 160)),),
    on_gpu=False,
)
PLUGINS = {"library": "plugins/libcastline_plugins.so", "sha256": "0"}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"no names of codes")
    return tmp_path / "model.onnx"


def command(text: str) -> str:
    return next(line.strip() for line in text.splitlines() if "tritonserver" in line)


def test_the_command_loads_the_plugins_and_lean_runtimes(graph: Path) -> None:
    build = {"plugins": PLUGINS, "version_compatible": True}
    model = replace(DECODER, backend="tensorrt", max_batch_size=2)
    text = readme_text(model, {"source": "org/tiny", "build": build}, graph)
    assert command(text) == (
        "tritonserver --model-repository=REPOSITORY "
        "--backend-config=tensorrt,plugins=plugins/libcastline_plugins.so "
        "--backend-config=tensorrt,version-compatible=true --disable-auto-complete-config"
    )
    assert "a server of their own" in text


def test_of_a_decoder_the_caches_of_one_layer_are_shown(graph: Path) -> None:
    text = readme_text(DECODER, {"source": "org/tiny", "build": {}}, graph)
    assert command(text) == "tritonserver --model-repository=REPOSITORY"
    assert "| `past_key_values.0.key` | TYPE_FP16 | 2, -1, 64 |" in text
    assert "past_key_values.1.key" not in text
    assert "Requests are not joined" in text


def test_of_an_encoder_it_says_which_requests_are_joined(graph: Path) -> None:
    encoder = replace(DECODER, inputs=(IDS,), max_batch_size=16, joins_requests=True)
    text = readme_text(encoder, {}, graph)
    assert "Requests of equal lengths are joined, up to 16 rows." in text


def test_what_the_backend_cannot_set_is_told_where_it_is_needed(graph: Path) -> None:
    def told(model: TritonModel, content: bytes) -> Any:
        graph.write_bytes(content)
        return EXACT_SUMS[0] in readme_text(model, {}, graph)

    assert told(DECODER, b"a MatMulInteger node")
    assert not told(DECODER, b"a MatMul node")
    assert not told(replace(DECODER, backend="tensorrt"), b"a MatMulInteger node")
