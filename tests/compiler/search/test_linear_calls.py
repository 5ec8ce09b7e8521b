"""Every linear of every architecture is seen, whichever way the model computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.linear_calls import LinearCall, LinearCalls

TOKENS = np.random.default_rng(0).integers(3, 100, (4, 16))


def test_every_linear_of_the_graph_is_seen(architecture: Any) -> None:
    model = BlockModel(architecture.checkpoint())
    seen: set[str] = set()

    def noted(call: LinearCall) -> torch.Tensor:
        seen.add(call.name)
        return call.answer()

    hidden = next(model.entering(TOKENS, len(TOKENS)))
    for index in range(len(model.blocks)):
        with model.loaded(index), LinearCalls(model.parameters(index), noted):
            hidden = model.run(index, hidden)
    wanted = {
        consumer.linear
        for site in fold_sites(architecture.graph()).sites
        for consumer in site.consumers
        if consumer.linear.startswith(architecture.skeleton.stack)
    }
    assert wanted <= seen


def test_an_answer_stands_for_the_product() -> None:
    weight = torch.nn.Parameter(torch.eye(3), requires_grad=False)
    with LinearCalls({"w": weight}, lambda call: call.answer(weight=2 * call.weight)):
        assert torch.equal(F.linear(torch.ones(2, 3), weight), torch.full((2, 3), 2.0))


def test_matrices_of_a_stack_and_stored_the_other_way_round_are_known() -> None:
    stack = torch.nn.Parameter(torch.arange(24.0).reshape(2, 3, 4), requires_grad=False)
    other = torch.nn.Parameter(torch.arange(12.0).reshape(4, 3), requires_grad=False)
    calls: list[LinearCall] = []

    def noted(call: LinearCall) -> torch.Tensor:
        calls.append(call)
        return call.answer()

    with LinearCalls({"stack": stack, "other": other}, noted):
        F.linear(torch.ones(1, 4), stack[1])
        product = torch.addmm(torch.ones(3), torch.ones(1, 4), other)
        F.linear(torch.ones(1, 4), torch.ones(3, 4))
    assert [(call.name, call.expert) for call in calls] == [("stack", 1), ("other", None)]
    assert torch.equal(calls[1].weight, other.T)
    assert torch.equal(product, torch.ones(1, 4) @ other + 1)
