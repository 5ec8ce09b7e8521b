"""A linear of a plan answers as its codes and scales do, which numpy computes here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.plan.decisions import (
    PlannedBlock,
    PlannedLinear,
    PlannedReassembly,
    PlannedSite,
)
from castline.compiler.quant.activations import dequantize_activations, quantize_activations
from castline.compiler.quant.channel_map import ChannelMap
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import dequantize, quantize
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.search.linear_calls import LinearCall
from castline.compiler.search.planned_linears import PlannedLinears, fold_planned
from castline.compiler.search.quantizer import Quantizer

INT8 = WeightScheme(8, "per-channel", symmetric=True)
STATIC = ActivationScheme(8, "per-tensor", dynamic=False)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(5, 4)).astype(np.float32)
W = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
BIAS = np.array([1.0, -1.0, 0.5], np.float32)


def answered(linear: PlannedLinear, expert: int | None = None) -> np.ndarray:
    planned = PlannedLinears(PlannedBlock(0, "b", (linear,), (), None))
    weight = torch.from_numpy(W[expert or 0])
    call = LinearCall(
        linear.name, expert, torch.from_numpy(X), weight, torch.from_numpy(BIAS), transposed=False
    )
    first = planned(call)
    assert torch.equal(planned(call), first)
    return first.numpy()


def planned(
    weights: WeightScheme | None = INT8,
    activations: ActivationScheme | None = None,
    parameters: QuantParameters | None = None,
) -> PlannedLinear:
    return PlannedLinear("w", weights, activations, parameters, None, None, None, 1.0, 1.0)


def stored(weight: np.ndarray) -> np.ndarray:
    return dequantize(quantize(np.ascontiguousarray(weight.T), INT8)).T


def test_weights_are_what_their_codes_stand_for() -> None:
    np.testing.assert_allclose(answered(planned()), X @ stored(W[0]).T + BIAS, rtol=1e-5)


def test_static_activations_are_rounded_and_clipped() -> None:
    step = 0.01
    codes = np.clip(np.rint(X / np.float32(step)), *STATIC.code_range)
    found = answered(planned(None, STATIC, QuantParameters(step, 0)))
    np.testing.assert_allclose(found, (codes * step) @ W[0].T + BIAS, rtol=1e-4, atol=1e-5)


def test_codes_that_search_chose_are_taken_as_they_are() -> None:
    """Not those nearest to the weights of the call, which are zero here."""
    scheme = WeightScheme(4, "per-channel", symmetric=True)
    matrices = tuple(quantize(np.ascontiguousarray(each.T), scheme) for each in W)
    linear = planned(scheme)
    for experts in ((None,), (1, 0)):
        given = GivenCodes(scheme, partial(tuple, matrices[: len(experts)]))
        linears = PlannedLinears(PlannedBlock(0, "b", (linear,), (), None, {"w": given}))
        for expert in experts:
            call = LinearCall(
                "w", expert, torch.from_numpy(X), torch.zeros(3, 4), None, transposed=False
            )
            expected = X @ dequantize(matrices[expert or 0])
            np.testing.assert_allclose(linears(call).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_what_an_explicit_site_divides_is_divided() -> None:
    scale, peaks = np.array([1.0, 2.0, 4.0, 0.5]), np.ones(4, np.float32)
    site = PlannedSite(
        "x", "", ("w",), peaks, peaks, scale, scale, 0.5, None, None, None, explicit=True
    )
    block = PlannedBlock(0, "b", (planned(),), (site,), None)
    call = LinearCall(
        "w", None, torch.from_numpy(X), torch.from_numpy(W[0]), None, transposed=False
    )
    expected = (X / scale) @ stored(W[0]).T
    np.testing.assert_allclose(PlannedLinears(block)(call).numpy(), expected, rtol=1e-4)
    fold_planned(block, {}, {})  # there is nothing to fold it into


MAP = ChannelMap(  # channel 1 is taken apart, and 2 and 0 share a place
    gather=np.array([2, 1, 1, 3]),
    scale=np.array([0.5, 0.5, 0.5, 1.0], np.float32),
    place=np.array([0]),
    channel=np.array([0]),
    channel_scale=np.array([0.5], np.float32),
)
PER_TOKEN = ActivationScheme(4, "per-token", dynamic=True, symmetric=False)


def reassembled(*names: str, **fields: Any) -> PlannedBlock:
    """Return a block of linears `names` that read one value, of which "w" reads the places."""
    peaks = np.ones(4, np.float32)
    reassembly = PlannedReassembly(MAP, ("w",), 1.0, "merge-error", 0.1, 0.2, None)
    site = PlannedSite("x", "", names, peaks, peaks, *[None] * 6, reassembly=reassembly)
    linear = planned(INT8, PER_TOKEN)
    return PlannedBlock(
        0, "b", tuple(replace(linear, name=n) for n in names), (site,), None, **fields
    )


def of_rows(x: np.ndarray) -> np.ndarray:
    return dequantize_activations(quantize_activations(x, PER_TOKEN))


def test_the_places_are_quantized_and_multiplied_by_the_codes_of_theirs() -> None:
    matrix = quantize(np.ascontiguousarray(MAP.of_weights(W[0]).T), INT8)
    given = GivenCodes(INT8, partial(tuple, (matrix,)))
    linears = PlannedLinears(reassembled("w", "router", codes={"w": given}))
    x, weight = torch.from_numpy(X), torch.from_numpy(W[0])
    found = linears(LinearCall("w", None, x, weight, None, transposed=False))
    expected = of_rows(MAP.of_values(X)) @ dequantize(matrix)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    other = linears(LinearCall("router", None, x, weight, None, transposed=False))
    np.testing.assert_allclose(other.numpy(), of_rows(X) @ stored(W[0]).T, rtol=1e-5, atol=1e-6)


def test_linears_that_learn_are_those_whose_codes_are_known() -> None:
    matrices = tuple(quantize(np.ascontiguousarray(each.T), INT8) for each in W)
    given = {"w": GivenCodes(INT8, partial(tuple, matrices[:1]))}
    given["stack"] = GivenCodes(INT8, partial(tuple, matrices))
    linears = PlannedLinears(reassembled("w", "stack", "nearest", codes=given))
    parameters = {"w": torch.from_numpy(W[0]), "stack": torch.from_numpy(W)}
    found = linears.students(parameters)
    assert found.keys() == {("w", None), ("stack", 0), ("stack", 1)}
    for (_, expert), one in found.items():
        np.testing.assert_array_equal(one.quantized.numpy(), dequantize(matrices[expert or 0]).T)
        assert one.quantizer == Quantizer(INT8, PER_TOKEN)
    assert found["stack", 0].channels is None
    channels = found["w", None].channels
    assert channels is not None
    np.testing.assert_array_equal(channels.of_values(torch.from_numpy(X)), MAP.of_values(X))
    assert linears.students(parameters)["w", None].channels is channels


def test_experts_of_a_stack_are_told_apart() -> None:
    linears = PlannedLinears(PlannedBlock(0, "b", (planned(),), (), None))
    for expert, weight in enumerate(W):
        call = LinearCall(
            "w", expert, torch.from_numpy(X), torch.from_numpy(weight), None, transposed=False
        )
        np.testing.assert_allclose(linears(call).numpy(), X @ stored(weight).T, rtol=1e-4)


def test_linears_that_stay_in_float_are_not_among_them() -> None:
    kept = PlannedLinear("k", None, None, None, "a router", None, None, 1.0, 1.0)
    block = PlannedBlock(0, "b", (planned(), kept), (), None)
    assert PlannedLinears(block).names == {"w"}


def test_folding_a_plan_divides_the_gain_and_multiplies_those_that_read_it(
    sample: Callable[[str], Any],
) -> None:
    arrays = sample("llama").arrays()
    site = next(site for site in fold_sites(sample("llama").graph()).foldable)
    read = {consumer.linear for consumer in site.consumers}
    scale = np.linspace(0.5, 2, site.scales)
    peaks = np.ones(site.scales, np.float32)
    folded, declined = (
        PlannedSite(name, "", tuple(read), peaks, peaks, each, each, None, None, None, None)
        for name, each in ((site.value, scale), ("elsewhere", None))
    )
    parameters = {
        name: torch.nn.Parameter(torch.from_numpy(array.copy()), requires_grad=False)
        for name, array in arrays.items()
    }
    block = PlannedBlock(0, "model.layers.0", (), (folded, declined), None)
    fold_planned(block, {site.value: site}, parameters)
    changed = {n for n, p in parameters.items() if not np.array_equal(p.numpy(), arrays[n])}
    assert changed == {"model.layers.0.input_layernorm.weight", *read}
    for name in read:
        np.testing.assert_allclose(parameters[name].numpy(), arrays[name] * scale, rtol=1e-6)
    gain = "model.layers.0.input_layernorm.weight"
    np.testing.assert_allclose(parameters[gain].numpy(), arrays[gain] / scale, rtol=1e-6)
