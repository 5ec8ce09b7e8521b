"""The unit that does the most harm is ranked first, and a budget keeps it in float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedLinear,
    QuantPlan,
)
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.sensitivity import Probe, Tokens, kept_within, rank_sensitivity
from castline.errors import CheckpointError, RecipeError, UnsupportedArchitectureError
from castline.progress import SilentProgress

WORST = "model.layers.1.mlp.up_proj.weight"


def plan_of(model: BlockModel, bits: Callable[[str], int]) -> QuantPlan:
    facts = CalibrationFacts("shipped", "0", 1, 8, 0, chat_template=False)
    blocks = [
        PlannedBlock(
            index,
            f"{model.stack}.{index}",
            tuple(
                PlannedLinear(
                    name,
                    WeightScheme(bits(name), "per-channel", symmetric=True),
                    *(None, None, None, None, None, 1.0, 1.0),
                )
                for name in model.parameters(index)
                if name.endswith("_proj.weight")
            ),
            (),
            None,
        )
        for index in range(len(model.blocks))
    ]
    return QuantPlan(PlanIdentity("0", {}, facts, "0"), {}, tuple(blocks))


@pytest.fixture(scope="module")
def model(sample: Callable[[str], Any]) -> BlockModel:
    return BlockModel(sample("llama").checkpoint())


@pytest.fixture(scope="module")
def tokens(sample: Callable[[str], Any]) -> Tokens:
    """What the float model itself would say: any other model predicts it worse."""
    begin = torch.from_numpy(np.random.default_rng(0).integers(3, 100, (2, 4)))
    said = sample("llama").model.generate(begin, max_new_tokens=28, do_sample=False)
    return said.numpy()


@pytest.fixture(scope="module")
def plan(model: BlockModel) -> QuantPlan:
    """Everything in 8 bits, but one linear in 2."""
    return plan_of(model, lambda name: 2 if name == WORST else 8)


@pytest.mark.parametrize(
    ("by", "worst", "kept"),
    [
        ("layer", "model.layers.1", ("model.layers.1.*",)),
        ("linear", WORST.removesuffix(".weight"), (WORST,)),
    ],
)
def test_a_planted_culprit_is_first_and_is_what_a_budget_keeps(
    model: BlockModel,
    plan: QuantPlan,
    tokens: Tokens,
    tmp_path: Path,
    by: Any,
    worst: str,
    kept: tuple[str, ...],
) -> None:
    ranking = rank_sensitivity(Probe(model, plan, (), tokens, tmp_path), by, SilentProgress())
    harm = [one.prediction.kl_divergence for one in ranking.ranked]
    assert ranking.ranked[0].unit.name == worst
    assert harm == sorted(harm, reverse=True)
    assert harm[0] > 10 * harm[1] > 0
    assert len(harm) == (3 if by == "layer" else 21)
    found = kept_within(Probe(model, plan, (), tokens, tmp_path), ranking, 1.01, SilentProgress())
    assert ranking.quantized.perplexity > 1.01 * ranking.perplexity_original
    assert found.patterns == kept
    assert found.prediction.perplexity <= 1.01 * ranking.perplexity_original


def test_a_budget_that_is_kept_anyway_keeps_nothing_in_float(
    model: BlockModel, tokens: Tokens, tmp_path: Path
) -> None:
    fine = plan_of(model, lambda _: 8)
    ranking = rank_sensitivity(Probe(model, fine, (), tokens, tmp_path), "layer", SilentProgress())
    found = kept_within(Probe(model, fine, (), tokens, tmp_path), ranking, 1.5, SilentProgress())
    assert found.kept == ()
    assert found.prediction == ranking.quantized


def test_a_budget_that_nothing_quantized_keeps_is_kept_by_the_float_model(
    model: BlockModel, tokens: Tokens, tmp_path: Path
) -> None:
    coarse = plan_of(model, lambda _: 2)
    ranking = rank_sensitivity(
        Probe(model, coarse, (), tokens, tmp_path), "layer", SilentProgress()
    )
    assert ranking.quantized.perplexity > ranking.perplexity_original
    found = kept_within(Probe(model, coarse, (), tokens, tmp_path), ranking, 1, SilentProgress())
    assert found.prediction.perplexity <= ranking.perplexity_original


def test_a_plan_that_quantizes_nothing_is_refused(
    model: BlockModel, tokens: Tokens, tmp_path: Path
) -> None:
    empty = QuantPlan(
        plan_of(model, lambda _: 8).identity,
        {},
        tuple(PlannedBlock(i, f"model.layers.{i}", (), (), None) for i in range(3)),
    )
    with pytest.raises(RecipeError, match="quantizes none"):
        rank_sensitivity(Probe(model, empty, (), tokens, tmp_path), "layer", SilentProgress())


def test_samples_of_one_token_are_refused(
    model: BlockModel, plan: QuantPlan, tokens: Tokens, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="at least two tokens"):
        rank_sensitivity(Probe(model, plan, (), tokens[:, :1], tmp_path), "layer", SilentProgress())


def test_an_encoder_is_refused(
    sample: Callable[[str], Any], plan: QuantPlan, tokens: Tokens, tmp_path: Path
) -> None:
    encoder = BlockModel(sample("bert").checkpoint())
    with pytest.raises(UnsupportedArchitectureError, match="BertModel is an encoder"):
        rank_sensitivity(Probe(encoder, plan, (), tokens, tmp_path), "layer", SilentProgress())


def test_an_original_that_predicts_no_numbers_is_refused(
    sample: Callable[[str], Any], tokens: Tokens, tmp_path: Path
) -> None:
    arrays = sample("llama").arrays()
    arrays["model.norm.weight"] = np.full_like(arrays["model.norm.weight"], 3e38)
    broken = BlockModel(sample("llama").checkpoint(arrays))
    with pytest.raises(CheckpointError, match="original's perplexity is"):
        rank_sensitivity(
            Probe(broken, plan_of(broken, lambda _: 8), (), tokens, tmp_path),
            "layer",
            SilentProgress(),
        )
