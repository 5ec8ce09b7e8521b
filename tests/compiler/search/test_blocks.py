"""A model run block by block computes what it computes as a whole, with one block in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.search.blocks import BlockModel
from castline.errors import CheckpointError, UnsupportedArchitectureError

TOKENS = np.random.default_rng(0).integers(3, 100, (2, 12))


def output(model: BlockModel) -> torch.Tensor:
    hidden = next(model.entering(TOKENS, len(TOKENS)))
    for index in range(len(model.blocks)):
        with model.loaded(index):
            hidden = model.run(index, hidden)
    return model.logits(hidden)


def test_blocks_compute_what_the_model_computes(architecture: Any) -> None:
    with torch.inference_mode():
        expected = architecture.model(torch.from_numpy(TOKENS))[0]
    found = output(BlockModel(architecture.checkpoint()))
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_blocks_that_learn_compute_the_same(architecture: Any) -> None:
    model = BlockModel(architecture.checkpoint())
    hidden = next(model.entering(TOKENS, len(TOKENS)))
    with model.loaded(0):
        expected = model.run(0, hidden)
        entering = hidden.clone().requires_grad_()
        leaving = model.run_learning(0, entering)
        leaving.square().sum().backward()
    assert (leaving - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert entering.grad is not None
    assert torch.isfinite(entering.grad).all()
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_gradients_flow_through_blocks_as_differences_say(sample: Callable[[str], Any]) -> None:
    model = BlockModel(sample("llama").checkpoint())
    entering = next(model.entering(TOKENS, len(TOKENS))).clone().requires_grad_()
    towards = torch.randn(entering.shape, generator=torch.Generator().manual_seed(0))
    with model.loaded(0), model.loaded(1):
        for block in model.blocks[:2]:
            block.double()

        def leaving(hidden: torch.Tensor) -> torch.Tensor:
            return (model.run_learning(1, model.run_learning(0, hidden)) * towards).sum()

        (gradient,) = torch.autograd.grad(leaving(entering.double()), entering)
        step = 1e-3 * towards.double()  # norms compute in float32 all the same
        with torch.no_grad():
            ahead, behind = (leaving(entering.double() + s) for s in (step, -step))
    assert float((ahead - behind) / 2e-3) == pytest.approx(
        float((gradient * towards).sum()), rel=1e-3
    )


def test_learning_fills_no_cache(sample: Callable[[str], Any]) -> None:
    model = BlockModel(sample("llama").checkpoint(), observes_cache=True)
    assert model.cache is not None
    with model.loaded(0):
        hidden = next(model.entering(TOKENS, len(TOKENS)))
        expected = model.run(0, hidden)
        assert model.cache.peaks
        model.cache.peaks.clear()
        found = model.run_learning(0, hidden)
    assert torch.equal(found, expected)
    assert not model.cache.peaks


def test_one_block_at_a_time_is_in_memory(sample: Callable[[str], Any]) -> None:
    model = BlockModel(sample("llama").checkpoint())
    with model.loaded(1):
        held = [not any(p.is_meta for p in block.parameters()) for block in model.blocks]
    assert held == [False, True, False]
    assert all(p.is_meta for block in model.blocks for p in block.parameters())


def test_parameters_have_the_checkpoints_names(sample: Callable[[str], Any]) -> None:
    tiny = sample("qwen3_moe")
    model = BlockModel(tiny.checkpoint())
    names = {name for index in range(len(model.blocks)) for name in model.parameters(index)}
    assert names < set(tiny.arrays())
    assert "model.layers.0.mlp.experts.down_proj" in names


def test_a_missing_tensor_is_named(sample: Callable[[str], Any]) -> None:
    arrays = sample("llama").arrays()
    del arrays["model.layers.2.mlp.up_proj.weight"]
    model = BlockModel(sample("llama").checkpoint(arrays))
    refused = pytest.raises(CheckpointError, match=r"layers.2.mlp.up_proj.weight is missing")
    with refused, model.loaded(2):
        pass


def test_a_model_that_tells_its_blocks_of_the_tokens_is_refused(
    sample: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BlockModel(sample("llama").checkpoint())
    embedding = model.model.model.embed_tokens
    rotary = model.model.model.rotary_emb
    forward = type(rotary).forward

    def with_tokens(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        cos, sin = forward(rotary, hidden, *args, **kwargs)
        return cos + hidden.mean(), sin

    monkeypatch.setattr(rotary, "forward", with_tokens)
    hidden = torch.zeros(1, 5, embedding.weight.shape[1])
    refused = pytest.raises(UnsupportedArchitectureError, match="LlamaForCausalLM: block 0 is giv")
    with model.loaded(0), refused:
        model.run(0, hidden)
