"""A module is run again as its block ran it, and judged with other weights in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.graph.folds.site import Consumer, Site
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.inspection import inspected_path, inspecting
from castline.compiler.search.quantizer import Quantizer

TOKENS = np.random.default_rng(0).integers(3, 100, (2, 12))
Sites = Callable[[str], tuple[Site, ...]]


@pytest.mark.parametrize(
    ("name", "prefix", "expected"),
    [
        (
            "llama",
            "model.layers.0.",
            {
                "self_attn.q_proj": "self_attn",
                "self_attn.o_proj": None,
                "mlp.gate_proj": "mlp",
                "mlp.down_proj": None,
            },
        ),
        (
            "mixtral",
            "model.layers.0.",
            {"mlp.gate": "mlp", "mlp.experts.down_proj": None, "self_attn.q_proj": "self_attn"},
        ),
        (
            "opt",
            "model.decoder.layers.0.",
            {
                "self_attn.q_proj": "self_attn",
                "self_attn.out_proj": None,
                "fc1": None,
                "fc2": None,
            },
        ),
        (
            "falcon, one key head",
            "transformer.h.0.",
            {"self_attention.query_key_value": "", "self_attention.dense": None},
        ),
        (
            "gpt_neox",
            "gpt_neox.layers.0.",
            {
                "attention.query_key_value": "attention",
                "attention.dense": None,
                "mlp.dense_h_to_4h": "mlp",
            },
        ),
        ("cohere", "model.layers.0.", {"self_attn.q_proj": "", "mlp.down_proj": None}),
        ("bloom", "transformer.h.0.", {"self_attention.query_key_value": "self_attention"}),
        ("phi3", "model.layers.0.", {"self_attn.qkv_proj": "self_attn", "mlp.gate_up_proj": "mlp"}),
        ("bert", "encoder.layer.0.", {"intermediate.dense": "intermediate"}),
        ("bert", "encoder.layer.1.", {"attention.self.query": "attention.self"}),
    ],
)
def test_scales_are_judged_where_awqs_authors_judge_them(
    sites: Sites, name: str, prefix: str, expected: dict[str, str | None]
) -> None:
    found = {
        consumer.linear.removeprefix(prefix).removesuffix(".weight"): inspected_path(site, prefix)
        for site in sites(name)
        for consumer in site.consumers
        if consumer.linear.startswith(prefix)
    }
    assert {linear: found[linear] for linear in expected} == expected


def test_a_linear_that_no_norm_feeds_is_judged_by_itself() -> None:
    consumers = (Consumer("b.mlp.down.weight", "n", np.arange(2)),)
    for kind in ("rows through a gate", "rows through attention", "rows through ReLU", "rows"):
        assert inspected_path(Site("x", "w", kind, consumers, (), 2, None), "b.") is None


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("llama", "self_attn"),
        ("llama", "mlp"),
        ("llama", ""),
        ("mixtral", "mlp"),
        ("gpt_neox", "attention"),
        ("falcon, one key head", ""),
        ("bert", "attention.self"),
    ],
)
def test_a_module_answers_as_it_did_in_its_block(
    sample: Callable[[str], Any], name: str, path: str
) -> None:
    model = BlockModel(sample(name).checkpoint())
    hidden = next(model.entering(TOKENS, len(TOKENS)))
    answers = []
    with model.loaded(0):
        parameters = model.parameters(0)
        module = model.blocks[0].get_submodule(path)
        handle = module.register_forward_hook(lambda _m, _a, answer: answers.append(answer))
        with inspecting(model.blocks[0], {path}, parameters) as found:
            model.run(0, hidden)
        handle.remove()
        answer = answers[-1]
        expected = answer[0] if isinstance(answer, tuple) else answer
        assert torch.equal(found[path].answered, expected)
        assert torch.equal(found[path].run(), expected)
        assert torch.equal(found[path].run(), expected)
        with torch.inference_mode():
            hidden.zero_()  # what was read is kept apart
        assert torch.equal(found[path].run(), expected)
        model.run(0, hidden)
        assert torch.equal(found[path].run(), expected)
        assert expected.std(dim=1).max() > 0  # tokens differ: they are not those of a trial call


def test_an_error_is_that_of_the_module_with_the_weights_in_place(
    sample: Callable[[str], Any],
) -> None:
    model = BlockModel(sample("llama").checkpoint())
    name = "model.layers.0.mlp.gate_proj.weight"
    with model.loaded(0):
        parameters = model.parameters(0)
        before = {each: value.clone() for each, value in parameters.items()}
        with inspecting(model.blocks[0], {"mlp"}, parameters) as found:
            model.run(0, next(model.entering(TOKENS, len(TOKENS))))
        inspected = found["mlp"]
        reference = inspected.run()
        other = parameters[name] * 1.1
        error = inspected.error({(name, None): other}, reference)
        assert all(torch.equal(before[each], value) for each, value in parameters.items())
        parameters[name].data.copy_(other)
        apart = inspected.run() - reference
        assert inspected.error({}, reference) == pytest.approx(error, rel=1e-6)
    expected = float(apart.square().sum() / reference.square().sum())
    assert error == pytest.approx(expected, rel=1e-5)
    assert error > 0


def test_its_own_weights_have_no_error(sample: Callable[[str], Any]) -> None:
    model = BlockModel(sample("mixtral").checkpoint())
    with model.loaded(0):
        parameters = model.parameters(0)
        with inspecting(model.blocks[0], {"mlp"}, parameters) as found:
            model.run(0, next(model.entering(TOKENS, len(TOKENS))))
        inspected = found["mlp"]
        stack = "model.layers.0.mlp.experts.gate_up_proj"
        own = {(stack, expert): parameters[stack][expert] for expert in range(4)}
        assert inspected.error(own, inspected.run()) == pytest.approx(0, abs=1e-12)
        changed = own | {(stack, 2): parameters[stack][2] * 1.1}
        assert inspected.error(changed, inspected.run()) > 0


def test_outputs_that_are_zero_have_no_error() -> None:
    block = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(block.weight)
    torch.nn.init.zeros_(block.bias)
    parameters = {"weight": block.weight}
    with inspecting(block, {""}, parameters) as found, torch.inference_mode():
        block(torch.ones(1, 2))
    assert found[""].error({("weight", None): torch.ones(2, 2)}, torch.zeros(1, 2)) == 0


def test_hooks_are_gone_after_the_run() -> None:
    block = torch.nn.Linear(2, 2)
    with inspecting(block, {""}, {}) as found:
        block(torch.ones(1, 2))
    first = found[""]
    block(torch.zeros(1, 2))
    assert found[""] is first
    assert not block._forward_pre_hooks
    assert not block._forward_hooks


def test_errors_are_those_of_the_inspected_modules_output(
    trial: Callable[..., Any], w3a16: Callable[..., Any]
) -> None:
    recipe = w3a16(scaling={"sites": ["norm"], "steps": 5})
    quantizer = Quantizer(recipe.weights_scheme, None)
    with trial("llama", recipe) as tried:
        mlp = tried.search.modules["mlp"]
        reference = mlp.run()
        names = [f"model.layers.0.mlp.{one}_proj.weight" for one in ("gate", "up")]
        for name in names:
            tried.parameters[name].data.copy_(quantizer.weight(tried.weights[name]))
        expected = float((mlp.run() - reference).square().sum() / reference.square().sum())
        for name in names:
            tried.parameters[name].data.copy_(tried.weights[name])
        planned = [one.planned for one in tried.fold()]
    assert [one.inspected for one in planned] == ["self_attn", None, "mlp", None]
    assert planned[2].linears == tuple(names)
    assert planned[2].error_before == pytest.approx(expected, rel=1e-4)
