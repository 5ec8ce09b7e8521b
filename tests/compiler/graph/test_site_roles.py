"""Every site is told by what its products go into, whatever its linears are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.graph.folds.site import Consumer, Site
from castline.compiler.graph.site_roles import Role, site_roles

# Ends of the names of modules; the longest that fits counts.
ROLES: dict[Role | None, str] = {
    "attention": "q_proj k_proj v_proj qkv_proj query_key_value c_attn query key value q_lin k_lin "
    "v_lin",
    "feed-forward": "gate_proj up_proj gate_up_proj fc1 dense_h_to_4h c_fc lin1 intermediate.dense "
    "mlp.gate shared_expert_gate",
    "down": "down_proj fc2 dense_4h_to_h mlp.c_proj lin2 output.dense",
    None: "o_proj out_proj self_attn.dense self_attention.dense attention.dense attn.c_proj "
    "out_lin attention.output.dense",
}
OUTSIDE = {"lm_head", "embed_tokens", "wte", "word_embeddings", "project_in", "project_out"}


def roles_by_name(linear: str) -> Role | None:
    module = linear.removesuffix(".weight")
    fitting = {
        end: role for role, ends in ROLES.items() for end in ends.split() if module.endswith(end)
    }
    return fitting[max(fitting, key=len)]


def test_the_sites_of_every_architecture_are_told_apart(architecture: Any) -> None:
    model = architecture.graph()
    sites = fold_sites(model).sites
    found = site_roles(model, sites)
    told = set()
    for site in sites:
        names = [one.linear for one in site.consumers]
        if names[0].removesuffix(".weight").split(".")[-1] in OUTSIDE:
            continue
        by_name = {roles_by_name(name) for name in names}
        # Attention and a feed-forward part may read one norm.
        expected = "attention" if "attention" in by_name else by_name.pop()
        assert found.get(site.value) == expected, names
        told.add(expected)
    assert told >= {"attention", "down", None}


def reads(between: str) -> dict[str, Role]:
    """Return the role of `x` [2, 4], which linear `p` reads, with these lines from there to `y`."""
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 24]>
        block (float[2, 4] x, float[4, 4] w, float[4, 4] v, float[4] gain) => (y)
        {{
            p = MatMul (x, w)
            {between}
        }}
    """)
    for value in list(model.graph.inputs)[1:]:
        model.graph.inputs.remove(value)
        assert value.shape is not None
        value.const_value = ir.Tensor(np.ones(value.shape.numpy(), np.float32), name=value.name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = str(node.outputs[0].name)
    site = Site("x", None, "", (Consumer("w", "p", np.arange(4)),), (), 4, None)
    return site_roles(model, (site,))


@pytest.mark.parametrize(
    ("between", "role"),
    [
        ("y = Attention <q_num_heads = 1, kv_num_heads = 1> (p, p, p)", "attention"),
        ("turned = Transpose (p)\n y = MatMul (p, turned)", "attention"),
        ("s = Sigmoid (p)\n y = MatMul (s, v)", "feed-forward"),
        ("s = Sigmoid (p)\n turned = Transpose (v)\n y = MatMul (s, turned)", "feed-forward"),
        ("y = Add (p, x)", "down"),
        ("n = RMSNormalization (p, gain)\n y = MatMul (n, v)", "down"),
    ],
)
def test_what_products_reach_before_the_next_norm_tells(between: str, role: Role) -> None:
    """A factor that is no weight is attention's; a weight may be stored transposed."""
    assert reads(between) == {"x": role}
