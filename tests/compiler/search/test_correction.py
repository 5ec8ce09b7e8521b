"""A window that learns comes closer to the window in float, and is never worse for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import pytest
import torch

from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.recipes.reassembly import Correction
from castline.compiler.search.correction import Learned, learn, relative_error
from castline.compiler.search.quantizer import Quantizer

OpensWindow: TypeAlias = Callable[..., AbstractContextManager[Any]]

W4A4 = Quantizer(
    WeightScheme(4, "per-channel", symmetric=False),
    ActivationScheme(4, "per-token", dynamic=True, symmetric=False),
)
WEIGHTS = Quantizer(WeightScheme(3, "per-channel", symmetric=False), None)
FAST = Correction(rank=2, epochs=3, learning_rate=0.02)


def learned(opened: Any, settings: Correction = FAST, seed: int = 0) -> Learned:
    return learn(opened.student, opened.batches, settings, seed, lambda _: None)


def by_token(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the squared error of each token by its square, in float64."""
    errors = (found - target).double().norm(dim=-1) / target.double().norm(dim=-1)
    return errors.square().flatten()


def loss(opened: Any, found: Learned) -> float:
    """Return the loss of what was found, measured apart."""
    with torch.no_grad():
        errors = [
            by_token(opened.student.leaving(entering, found.low_rank), target)
            for entering, target in opened.batches
        ]
    return float(torch.cat(errors).mean())


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_window_comes_closer_to_float(quantized_window: OpensWindow, blocks: int) -> None:
    with quantized_window("llama", blocks) as opened:
        found = learned(opened)
        assert found.loss_learned < 0.9 * found.loss_before
        assert loss(opened, found) == pytest.approx(found.loss_learned, rel=1e-5)
    assert (found.epochs, found.diverged) == (3, False)
    assert len(found.low_rank) == 7 * blocks


def test_the_loss_before_is_that_of_the_quantized_window(quantized_window: OpensWindow) -> None:
    """Computed apart: by a model whose weights are replaced by the quantized ones."""
    with quantized_window("llama", 1, weights_alone) as opened:
        found = learned(opened, Correction(epochs=1))
        for (name, _), linear in opened.student.linears.items():
            opened.student.parameters[name].copy_(linear.quantized)
        errors = [
            by_token(opened.student.run(entering), target) for entering, target in opened.batches
        ]
    assert float(torch.cat(errors).mean()) == pytest.approx(found.loss_before, rel=1e-5)


def test_a_token_counts_by_its_own_square() -> None:
    target = torch.tensor([[[3.0, 4.0], [3000.0, 4000.0]]])
    found = target + torch.tensor([[[1.0, 0.0], [0.0, 1000.0]]])
    assert float(relative_error(found, target)) == pytest.approx((1 / 25 + 1 / 25) / 2)
    assert float(relative_error(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))) == 0


def test_what_is_added_to_the_weights_is_of_low_rank(quantized_window: OpensWindow) -> None:
    with quantized_window("llama", 1) as opened:
        found = learned(opened)
        for reader, linear in opened.student.linears.items():
            delta = found.delta(reader)
            assert delta.shape == linear.quantized.shape
            assert not delta.requires_grad
            assert torch.linalg.matrix_rank(delta) == 2


def test_weights_that_hold_what_was_learned_lose_the_same(quantized_window: OpensWindow) -> None:
    """So the products are what the low-rank matrices do beside the quantized weights."""
    with quantized_window("llama", 1, weights_alone) as opened:
        found = learned(opened)
        for (name, expert), linear in opened.student.linears.items():
            linear.quantized.add_(found.delta((name, expert)))
        merged = learn(opened.student, opened.batches, Correction(epochs=1), 0, lambda _: None)
    assert merged.loss_before == pytest.approx(found.loss_learned, rel=1e-4)


def test_the_same_seed_learns_the_same_bytes(quantized_window: OpensWindow) -> None:
    runs = []
    for seed in (3, 3, 4):
        with quantized_window("llama", 1) as opened:
            runs.append(learned(opened, FAST.model_copy(update={"epochs": 1}), seed))
    first, same, other = ([run.delta(reader) for reader in run.low_rank] for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_loss_that_diverges_is_stopped_and_the_best_state_kept(
    quantized_window: OpensWindow,
) -> None:
    steps: list[float] = []
    settings = Correction(epochs=5, learning_rate=0.99)
    with quantized_window("llama", 2) as opened:
        found = learn(opened.student, opened.batches, settings, 0, steps.append)
        assert loss(opened, found) == pytest.approx(found.loss_learned, rel=1e-5)
    assert found.diverged
    assert found.epochs < 5
    assert len(steps) < 15
    assert found.loss_learned <= found.loss_before


def test_parameters_stay_and_every_step_is_told(quantized_window: OpensWindow) -> None:
    steps: list[float] = []
    with quantized_window("llama", 2) as opened:
        before = {name: value.clone() for name, value in opened.student.parameters.items()}
        learn(opened.student, opened.batches, FAST, 0, steps.append)
        for name, value in opened.student.parameters.items():
            assert torch.equal(value, before[name])
            assert value.grad is None
    assert steps == [1.0] * 9  # 3 batches, 3 epochs


@pytest.mark.parametrize(
    ("name", "experts"),
    [("mixtral", {None, *range(4)}), ("qwen3_moe", {None, *range(6)}), ("gpt2", {None})],
)
def test_experts_and_matrices_stored_the_other_way_round_learn(
    quantized_window: OpensWindow, name: str, experts: set[int | None]
) -> None:
    with quantized_window(name, 1, weights_alone) as opened:
        found = learned(opened)
    assert found.loss_learned < 0.9 * found.loss_before
    assert {expert for _, expert in found.low_rank} == experts


def test_linears_in_float_do_not_learn(quantized_window: OpensWindow) -> None:
    activations = Quantizer(None, W4A4.activations)
    with quantized_window(
        "llama", 1, lambda name: W4A4 if "down" in name else activations
    ) as opened:
        found = learned(opened)
    assert [name for name, _ in found.low_rank] == ["model.layers.0.mlp.down_proj.weight"]


def test_a_window_without_a_quantized_matrix_has_nothing_to_learn(
    quantized_window: OpensWindow,
) -> None:
    with quantized_window("llama", 1, lambda _: None) as opened:
        found = learned(opened)
    assert (found.low_rank, found.epochs, found.diverged) == ({}, 0, False)
    assert found.loss_learned == found.loss_before < 1e-12  # what enters is in float, too


def weights_alone(name: str) -> Quantizer | None:
    """Leave routers, embeddings and all activations in float."""
    is_linear = any(part in name for part in ("proj", "c_attn", "c_fc"))
    return WEIGHTS if is_linear else None
