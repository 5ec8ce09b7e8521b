from __future__ import annotations

import pytest

from castline.compiler.report.layer_kinds import layer_kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("/model/layers.0/attn/qkv_proj/MatMul", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norm"),
        ("model.layers.0.input_layernorm.weight", "norm"),
        ("transformer.h.0.ln_1.weight", "norm"),
        ("model.layers.0.mlp.down_proj.weight", "mlp"),
        ("model.layers.3.block_sparse_moe.experts.0.w1.weight", "mlp"),
        ("model.decoder.layers.0.fc1.weight", "mlp"),
        ("lm_head.weight", "head"),
        ("embed_out.weight", "head"),
        ("embeddings.LayerNorm.weight", "norm"),
        ("encoder.layer.0.attention.self.query.weight", "attention"),
        ("encoder.layer.0.attention.output.dense.weight", "attention"),
        ("encoder.layer.0.intermediate.dense.weight", "mlp"),
        ("encoder.layer.0.output.dense.weight", "mlp"),
        ("transformer.layer.0.ffn.lin1.weight", "mlp"),
        ("val_73", "other"),
    ],
)
def test_tells_the_kind_from_the_path(path: str, kind: str) -> None:
    assert layer_kind(path) == kind


def test_the_first_telling_path_decides() -> None:
    assert layer_kind("val_73", "/model/layers.0/mlp/up_proj/MatMul", "lm_head") == "mlp"
