"""Attention reads codes of queries, keys and values, and so does the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from castline.compiler.passes.quantize_attention import QuantizeAttention
from castline.compiler.quant.scheme import ActivationScheme
from castline.compiler.search.attention_reads import attention_reading
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.write import write_model

TOKENS = np.random.default_rng(0).integers(3, 100, (2, 9))
INT4 = ActivationScheme(4, "per-token", dynamic=True, symmetric=False)


def expected(sample: Any, scheme: ActivationScheme | None) -> np.ndarray:
    with torch.inference_mode(), attention_reading(scheme):
        return sample.model(torch.from_numpy(TOKENS)).logits.numpy()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_graph_computes_what_the_search_does(
    sample: Callable[[str], Any], tmp_path: Path, name: str, symmetric: bool
) -> None:
    scheme = ActivationScheme(4, "per-token", dynamic=True, symmetric=symmetric)
    tiny = sample(name)
    model = tiny.graph()
    done = QuantizeAttention(scheme)(model)
    assert len(done.nodes) == tiny.config.num_hidden_layers
    assert done.left == {}
    assert done.notes() == ()
    write_model(model, tmp_path)
    found = DecoderSession.open(tmp_path, threads=1).logits(TOKENS)
    wanted, exact = expected(tiny, scheme), expected(tiny, None)
    lost = np.abs(wanted - exact).max()
    assert lost > 1e-2 * np.abs(exact).max()
    assert np.abs(found - wanted).max() < 2e-2 * lost  # one code may be the neighbour's


def test_a_text_read_in_steps_with_a_cache_is_the_same(
    sample: Callable[[str], Any], tmp_path: Path
) -> None:
    model = sample("llama").graph()
    QuantizeAttention(INT4)(model)
    write_model(model, tmp_path)
    session = DecoderSession.open(tmp_path, threads=1)
    whole, decoding = session.logits(TOKENS), session.begin(*TOKENS.shape)
    parts = [decoding.step(TOKENS[:, begin:end]) for begin, end in ((0, 5), (5, 6), (6, 9))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)


def test_what_is_not_apart_by_heads_stays_in_float() -> None:
    model = ir.from_onnx_text(
        """
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[B, S, 8] q, float[B, S, 8] k, float[B, S, 8] v) => (float[B, S, 8] y)
        { y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) }
        """
    )
    for node in model.graph:
        node.name = "attention"
    done = QuantizeAttention(INT4)(model)
    assert done.nodes == []
    reason = "what it reads has 3 axes, where heads stand apart in 4"
    assert done.notes() == (f"1 attention node reads float: {reason}",)


def test_a_graph_without_such_an_operator_is_told_of() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]> g (float[1] x) => (float[1] y) { y = Neg (x) }'
    )
    assert QuantizeAttention(INT4)(model).notes() == (
        "no attention is one operator here, so what it reads stays in float",
    )
