"""Codes are within their range, stand for the weights, and have scales that float16 keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.quant.round_to_nearest import dequantize, quantize
from castline.compiler.quant.two_level import levels
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search import chosen_codes, clipping
from castline.compiler.search.chosen_codes import ChosenCodes, choose_codes

N, K = 12, 96
CLIPPED = {"clipping": {}}
COMPENSATED = {"clipping": {}, "rounding": "compensated"}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments() -> torch.Tensor:
    x = normal(300, K, seed=2) @ (normal(K, K, seed=3) / K**0.5 + torch.eye(K))
    return x.T @ x


TWO_LEVELS = {
    "algorithm": "round-to-nearest",
    "weights": {"bits": 4, "group_size": 32, "symmetric": True, "two_level": True},
    "activations": {"bits": 8, "granularity": "per-token", "scales": "dynamic"},
}


def recipe(bits: int = 4, group: object = 32, symmetric: bool = False, **fields: Any) -> Recipe:
    weights = {"bits": bits, "group_size": group, "symmetric": symmetric}
    return Recipe.model_validate({"name": "r", "algorithm": "awq", "weights": weights, **fields})


def chosen(
    recipe: Recipe,
    name: str = "layers.0.mlp.up_proj.weight",
    weight: torch.Tensor | None = None,
    second: torch.Tensor | None = None,
) -> ChosenCodes:
    assert recipe.weights_scheme is not None
    weight = normal(N, K, seed=1) if weight is None else weight
    return choose_codes(name, weight, second, recipe, recipe.weights_scheme)


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_chosen_a_few_at_a_time_are_those_chosen_together(
    symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(3, 32, symmetric, **COMPENSATED)
    together = chosen(asked, second=moments())
    monkeypatch.setattr(chosen_codes, "_WEIGHTS_AT_ONCE", 5 * K)
    monkeypatch.setattr(clipping, "_WEIGHTS_AT_ONCE", 2 * K)
    apart = chosen(asked, second=moments())
    torch.testing.assert_close(apart.weight, together.weight)
    assert apart.clipped == pytest.approx(together.clipped)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("group", [32, 64, "per-channel"])
def test_the_stored_matrix_is_the_weight_that_was_measured(
    bits: int, group: object, symmetric: bool
) -> None:
    asked = recipe(bits, group, symmetric, **COMPENSATED)
    found = chosen(asked, second=moments())
    matrix, scheme = found.matrix, asked.weights_scheme
    assert scheme is not None
    groups = K // (32 if group != "per-channel" else K)  # 64 does not divide 96
    assert matrix.codes.shape == (K, N)
    assert matrix.scales.shape == (groups, N)
    assert matrix.codes.dtype == (np.int8 if symmetric else np.uint8)
    assert (matrix.zero_points is None) == symmetric
    least, most = scheme.code_range
    for part in (matrix.codes, *([] if symmetric else [matrix.zero_points])):
        assert part.min() >= least
        assert part.max() <= most
    np.testing.assert_array_equal(dequantize(matrix), found.weight.numpy().T)


def test_scales_are_numbers_of_float16() -> None:
    """Those of weights that are not tiny: float16 has fewer bits below 2**-14."""
    found = chosen(recipe(**COMPENSATED), second=moments()).matrix.scales
    np.testing.assert_array_equal(found, found.astype(np.float16).astype(np.float32))


def test_scales_of_two_levels_are_those_that_the_graph_has(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(recipe(**COMPENSATED, **TWO_LEVELS), second=moments())
    integers, unit = levels(found.matrix.scales)
    assert len(np.unique(integers)) > 4
    np.testing.assert_array_equal(integers * unit, found.matrix.scales)
    np.testing.assert_array_equal(dequantize(found.matrix), found.weight.numpy().T)
    monkeypatch.setattr(chosen_codes, "_WEIGHTS_AT_ONCE", 5 * K)
    apart = chosen(recipe(**COMPENSATED, **TWO_LEVELS), second=moments())
    torch.testing.assert_close(apart.weight, found.weight)


def test_what_nothing_reached_is_rounded_to_nearest() -> None:
    asked = recipe(**COMPENSATED)
    assert asked.weights_scheme is not None
    weight = normal(N, K, seed=1)
    found = chosen(asked)
    nearest = quantize(np.ascontiguousarray(weight.numpy().T), asked.weights_scheme)
    assert found.clipped is None
    np.testing.assert_allclose(found.matrix.scales, nearest.scales, rtol=2**-11)
    assert nearest.zero_points is not None
    np.testing.assert_array_equal(found.matrix.zero_points, nearest.zero_points)
    apart = found.matrix.codes.astype(int) - nearest.codes
    assert (apart != 0).mean() < 0.01  # scales of 11 bits move a weight between two codes


def test_clipping_alone_rounds_to_nearest_on_narrower_ranges() -> None:
    asked = recipe(**CLIPPED)
    found = chosen(asked, second=moments())
    assert found.clipped is not None
    assert 0 < found.clipped < 1
    whole = chosen(recipe(rounding="nearest", scaling={"explicit": True})).matrix.scales
    narrowed = found.matrix.scales < whole
    assert narrowed.mean() == pytest.approx(found.clipped)
    assert (found.matrix.scales <= whole).all()
    assert (found.matrix.scales[narrowed] >= 0.55 * whole[narrowed] * (1 - 2**-10)).all()


@pytest.mark.parametrize(
    ("name", "clipped"),
    [
        ("model.layers.0.self_attn.q_proj.weight", False),
        ("model.layers.0.self_attn.k_proj.weight", False),
        ("model.layers.0.self_attn.v_proj.weight", True),
        ("model.layers.0.self_attn.qkv_proj.weight", True),
        ("model.layers.0.self_attn.Wqkv.weight", False),
        ("encoder.layer.0.attention.self.query.weight", False),
        ("encoder.layer.0.attention.self.key.weight", False),
        ("encoder.layer.0.attention.self.value.weight", True),
        ("encoder.layer.0.key_value_store.weight", True),
        ("model.layers.0.block_sparse_moe.experts.0.w1.weight", True),
        ("model.layers.0.mlp.experts.gate_up_proj", True),
        ("model.layers.0.k_projections.o_proj.weight", True),
        ("transformer.h.0.self_attention.query_key_value.weight", False),
    ],
)
def test_linears_are_left_whole_by_their_exact_names(name: str, clipped: bool) -> None:
    found = chosen(recipe(**CLIPPED), name, second=moments())
    assert (found.clipped is not None) == clipped


def test_compensated_codes_answer_better_than_the_nearest() -> None:
    weight, second = normal(N, K, seed=1), moments()

    def error(fields: dict[str, Any]) -> float:
        found = chosen(recipe(3, symmetric=True, **fields), weight=weight, second=second)
        apart = found.weight - weight
        return float((apart @ second @ apart.T).trace())

    nearest = error({"scaling": {"explicit": True}})
    assert error(COMPENSATED) < error(CLIPPED) < nearest
    assert error({"rounding": "compensated"}) < 0.8 * nearest


def test_a_value_behind_gelu_is_divided_by_a_node_of_its_own_if_the_recipe_allows_it(
    trial: Callable[..., Any], w3a16: Callable[..., Recipe]
) -> None:
    down = "transformer.h.0.mlp.dense_4h_to_h.weight"
    found = {}
    for explicit in (False, True):
        recipe = w3a16(scaling={"explicit": explicit})
        with trial("falcon, new decoder", recipe) as tried:
            (one,) = (each for each in tried.fold() if each.planned.linears == (down,))
            (linear,), codes = tried.search.linears(one, tried.observations, {}, {})
            assert down not in tried.changed
            found[explicit] = one.planned, linear, next(iter(codes[down].matrices()))
            weight = tried.weights[down].numpy()
    (declined, plain, _), (planned, linear, matrix) = found[False], found[True]
    assert (declined.declined, declined.explicit) == ("GELU stands in between", False)
    assert (planned.declined, planned.explicit) == (None, True)
    assert planned.channel_scale is not None
    assert planned.error < planned.error_before
    assert linear.output_sqnr == pytest.approx(plain.output_sqnr, abs=2)  # of 24 dB
    scaled = weight.T * planned.channel_scale[:, None]
    step = matrix.scales.repeat(matrix.group, 0)
    assert np.abs(dequantize(matrix) - scaled).max() < 4 * step.max()
    assert np.corrcoef(dequantize(matrix).ravel(), scaled.ravel())[0, 1] > 0.95


def test_every_expert_has_codes_and_those_never_reached_are_named(
    trial: Callable[..., Any], w3a16: Callable[..., Recipe]
) -> None:
    """One token is sent to two of four experts: each of them has seen a single row."""
    router = "model.layers.0.mlp.gate.weight"
    kept = {router: "it chooses experts"}
    with trial("mixtral", w3a16(), kept, tokens=np.array([[7]])) as tried:
        decisions = tried.fold()
        assert decisions[2].planned.inspected == "mlp"
        after = tried.run()
        results = [tried.search.linears(one, tried.observations, {}, {}) for one in decisions]
        parameters = {name: value.clone() for name, value in tried.parameters.items()}
    assert (after - tried.before).abs().max() <= 1e-5 * tried.before.abs().max()
    linears = {one.name: one for planned, _ in results for one in planned}
    codes = {name: each for _, chosen in results for name, each in chosen.items()}
    assert codes.keys() == linears.keys() - {router}
    assert linears[router].clipped is None
    reached = {expert for name, expert in tried.observations.seen if expert is not None}
    assert len(reached) == 2
    for stack in (f"model.layers.0.mlp.experts.{one}" for one in ("gate_up_proj", "down_proj")):
        assert linears[stack].unreached == tuple(sorted(set(range(4)) - reached))
        assert linears[stack].clipped is not None
        matrices = tuple(codes[stack].matrices())
        assert len(matrices) == 4
        for weight, matrix in zip(parameters[stack].numpy(), matrices, strict=True):
            apart = np.abs(dequantize(matrix).T - weight)
            assert apart.mean() < 0.3 * np.abs(weight).mean()


def test_the_text_of_many_tokens_reaches_every_expert(
    trial: Callable[..., Any], w3a16: Callable[..., Recipe]
) -> None:
    with trial("mixtral", w3a16()) as tried:
        for one in tried.fold():
            linears, _codes = tried.search.linears(one, tried.observations, {}, {})
            assert all(linear.unreached == () for linear in linears)
