"""Variants run side by side predict what each predicts alone, as a whole model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.check.language import window_sums
from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedLinear,
    PlannedSite,
    QuantPlan,
)
from castline.compiler.quant.round_to_nearest import dequantize, quantize
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.variants import Prediction, predictions
from castline.progress import SilentProgress

TOKENS = np.random.default_rng(0).integers(3, 100, (3, 12))
INT4 = WeightScheme(4, 16, symmetric=True)


def quantized_plan(model: BlockModel) -> QuantPlan:
    facts = CalibrationFacts("shipped", "0", 1, 8, 0, chat_template=False)
    blocks = [
        PlannedBlock(
            index,
            f"{model.stack}.{index}",
            tuple(
                PlannedLinear(name, INT4, None, None, None, None, None, 1.0, 1.0)
                for name in model.parameters(index)
                if name.endswith("_proj.weight")
            ),
            (),
            None,
        )
        for index in range(len(model.blocks))
    ]
    return QuantPlan(PlanIdentity("0", {}, facts, "0"), {}, tuple(blocks))


def expected(original: torch.nn.Module, names: set[str]) -> Prediction:
    """Quantize the whole model by numpy, and compare by the gate's arithmetic."""
    other = copy.deepcopy(original)
    for name, parameter in other.named_parameters():
        if name in names:
            stored = dequantize(quantize(np.ascontiguousarray(parameter.detach().T), INT4))
            parameter.data = torch.from_numpy(np.ascontiguousarray(stored.T))
    with torch.inference_mode():
        before, after = (one(torch.from_numpy(TOKENS)).logits.numpy() for one in (original, other))
    sums = sum(window_sums(*each) for each in zip(before, after, TOKENS, strict=True))
    _, nll, kl, _ = sums / (TOKENS.shape[0] * (TOKENS.shape[1] - 1))
    return Prediction(float(kl), float(np.exp(nll)))


def test_each_variant_predicts_as_a_model_quantized_so(
    sample: Callable[[str], Any], tmp_path: Path
) -> None:
    tiny = sample("llama")
    model = BlockModel(tiny.checkpoint())
    plan = quantized_plan(model)
    wanted = [
        set(),
        {"model.layers.1.mlp.down_proj.weight"},
        {name for name in plan.linears if ".2." in name},
        set(plan.linears),
    ]
    found = predictions(model, plan, {}, wanted, TOKENS, tmp_path, SilentProgress())
    for names, prediction in zip(wanted, found, strict=True):
        reference = expected(tiny.model, names)
        assert prediction.kl_divergence == pytest.approx(reference.kl_divergence, rel=1e-4)
        assert prediction.perplexity == pytest.approx(reference.perplexity, rel=1e-5)
    assert found[0].kl_divergence == 0 < found[1].kl_divergence < found[3].kl_divergence


def test_every_block_is_read_once_for_all_variants(
    sample: Callable[[str], Any], tmp_path: Path
) -> None:
    checkpoint = sample("llama").checkpoint()
    model = BlockModel(checkpoint)
    plan = quantized_plan(model)
    name = "model.layers.2.mlp.up_proj.weight"
    before = checkpoint.reader.reads[name]
    wanted = [{name}, set(plan.linears), {"model.layers.0.mlp.up_proj.weight"}]
    predictions(model, plan, {}, wanted, TOKENS, tmp_path, SilentProgress())
    assert checkpoint.reader.reads[name] == before + 1


def test_scales_are_folded_before_weights_are_rounded(
    sample: Callable[[str], Any], tmp_path: Path
) -> None:
    tiny = sample("llama")
    model = BlockModel(tiny.checkpoint())
    plan = quantized_plan(model)
    site = fold_sites(tiny.graph()).foldable[0]
    read = {consumer.linear for consumer in site.consumers}
    scale = np.linspace(0.25, 4, site.scales)
    peaks = np.ones(site.scales, np.float32)
    planned = PlannedSite(
        site.value, "", tuple(read), peaks, peaks, scale, scale, None, None, None, None
    )
    smoothed = replace(plan, blocks=(replace(plan.blocks[0], sites=(planned,)), *plan.blocks[1:]))
    sites = {site.value: site}
    (found,) = predictions(model, smoothed, sites, [read], TOKENS, tmp_path, SilentProgress())

    folded = copy.deepcopy(tiny.model)
    names = dict(folded.named_parameters())
    names["model.layers.0.input_layernorm.weight"].data /= torch.from_numpy(scale)
    for name in read:
        names[name].data *= torch.from_numpy(scale)
    reference = expected(folded, read)
    assert found.kl_divergence == pytest.approx(reference.kl_divergence, rel=1e-3)
    assert found.perplexity == pytest.approx(reference.perplexity, rel=1e-5)
