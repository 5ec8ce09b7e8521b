"""Quantized experts become one node that computes what their dequantized matrices compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.qmoe import QMoE
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import GroupSize, WeightScheme

Run = Callable[..., list[np.ndarray]]
INT4 = WeightScheme(4, 32, True)


def quantized(model: ir.Model, scheme: WeightScheme) -> ir.Model:
    QuantizeWeights(scheme)(model)
    return model


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("bits", "group", "symmetric"),
    list(itertools.product((4, 8), (32, 128, "per-channel", "per-tensor"), (True, False))),
)
def test_every_scheme_and_routing_gives_what_the_dequantized_experts_give(
    mixture: Any, routed: Any, run_mixture: Run, bits: int, group: GroupSize, symmetric: bool
) -> None:
    experts = mixture(hidden=128, inner=96)
    scheme = WeightScheme(bits, group, symmetric)
    low = quantized(experts.model(), scheme)
    assert QMoE(accuracy_level=1, eight_bits=True)(low) == {}
    assert operators(low).count("QMoE") == 1
    assert "DequantizeLinear" not in operators(low)
    cases = routed(experts)
    wanted = run_mixture(quantized(experts.model(), scheme), *cases.values())
    # The kernel has no way to multiply codes of 8 bits but by activations in int8, one scale per
    # block: half a step of at most 1 / 127 of the block's peak each.
    bound = 1e-5 if bits == 4 else 3e-2
    for found, expected in zip(run_mixture(low, *cases.values()), wanted, strict=True):
        assert error(found, expected) <= bound


def test_activations_in_int8_are_near(mixture: Any, routed: Any, run_mixture: Run) -> None:
    experts = mixture()
    low = quantized(experts.model(), INT4)
    QMoE()(low)
    case = routed(experts)["forty tokens"]
    (found,), (wanted,) = (
        run_mixture(low, case),
        run_mixture(quantized(experts.model(), INT4), case),
    )
    assert 1e-5 < error(found, wanted) <= 3e-2


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
def test_every_block_size_is_right(mixture: Any, routed: Any, run_mixture: Run, block: int) -> None:
    experts = mixture(hidden=block, inner=block)
    low = quantized(experts.model(), WeightScheme(4, "per-channel", True))
    QMoE(accuracy_level=1)(low)
    (node,) = (node for node in low.graph if node.op_type == "QMoE")
    assert node.attributes.get_int("block_size", 0) == block
    case = routed(experts)["forty tokens"]
    (found,) = run_mixture(low, case)
    (wanted,) = run_mixture(quantized(experts.model(), WeightScheme(4, "per-channel", True)), case)
    assert error(found, wanted) <= 1e-5


def test_half_precision_has_a_kernel_too(mixture: Any, routed: Any, run_mixture: Run) -> None:
    experts = mixture(dtype=np.float16)
    low = quantized(experts.model(), INT4)
    assert QMoE(accuracy_level=1)(low) == {}
    case = routed(experts)["forty tokens"]
    (found,), (wanted,) = (
        run_mixture(low, case),
        run_mixture(quantized(experts.model(), INT4), case),
    )
    assert found.dtype == np.float16
    assert error(found, wanted) <= 5e-3


def test_float_experts_are_not_its_business(mixture: Any) -> None:
    model = mixture().model()
    assert QMoE()(model) == {}
    assert "QMoE" not in operators(model)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"biases": True}, "its experts are not gated by SiLU alone"),
        (
            {"activation": "gelu = Gelu (gate)\n inner = Mul (gelu, up)"},
            "its experts are not gated by SiLU alone",
        ),
        (
            {"signed": True},
            "its router may give weights below zero, which the kernel takes for zero",
        ),
        ({"inner": 40}, "no power of two from 16 on divides the groups of K = 64 and 40"),
    ],
)
def test_declines_what_the_kernel_cannot_do(
    mixture: Any, sizes: dict[str, Any], reason: str
) -> None:
    model = quantized(mixture(**sizes).model(), INT4)
    before = operators(model)
    assert QMoE()(model) == {"/experts": reason}
    assert operators(model) == before


def test_codes_of_eight_bits_are_left_unless_asked_for(mixture: Any) -> None:
    model = quantized(mixture().model(), WeightScheme(8, 32, True))
    reason = "with codes of 8 bits the kernel rounds activations to int8"
    assert QMoE()(model) == {"/experts": reason}
    assert "QMoE" not in operators(model)


def test_a_second_time_changes_nothing(mixture: Any) -> None:
    model = quantized(mixture().model(), INT4)
    QMoE()(model)
    once = operators(model)
    assert QMoE()(model) == {}
    assert operators(model) == once
