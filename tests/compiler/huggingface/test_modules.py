"""Only linears of torch have codes; the others are named to be ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from castline.compiler.huggingface.modules import LinearModules, module_of
from castline.errors import TargetError


def test_every_linear_of_the_model_is_found_the_head_too(tiny: Callable[[str], Any]) -> None:
    modules = LinearModules.of(tiny("llama").checkpoint, decodes=True)
    assert len(modules.paths) == 2 * 7 + 1
    assert modules.paths[0] == "model.layers.0.self_attn.q_proj"
    assert modules.paths[-1] == "lm_head"


def test_an_encoder_is_the_model_without_its_head(encoder: Any) -> None:
    modules = LinearModules.of(encoder.checkpoint, decodes=False)
    assert len(modules.paths) == 2 * 6
    assert "encoder.layer.1.output.dense" in modules.paths


def test_linears_of_a_class_of_their_own_are_told_apart() -> None:
    modules = LinearModules(("up", "down"), frozenset({"down"}))
    assert modules.are_derived(["up.weight", "down.weight"])
    assert not modules.are_derived(["up.weight"])


def test_the_others_are_those_without_the_weights() -> None:
    modules = LinearModules(("up", "down", "head"))
    assert modules.others({"up.weight"}) == ("down", "head")


def test_weights_of_other_modules_are_refused() -> None:
    modules = LinearModules(("up",))
    modules.require(["up.weight"])
    with pytest.raises(TargetError, match=r"1 weights belong to modules other .*\(c_attn.weight\)"):
        modules.require(["up.weight", "c_attn.weight"])


def test_a_module_is_the_weight_without_its_last_part() -> None:
    assert module_of("model.layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj"
