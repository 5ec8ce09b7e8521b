"""Each expert's matrix is quantized as it would be alone, behind one DequantizeLinear."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix, dequantize, quantize
from castline.compiler.quant.scheme import WeightScheme

Run = Callable[..., list[np.ndarray]]
SCHEMES = [
    WeightScheme(*each)
    for each in (
        *itertools.product((4, 8), (32, "per-channel", "per-tensor"), (True, False)),
        *itertools.product((3, 6), (32,), (True, False)),
    )
]


def rounded(stack: np.ndarray, scheme: WeightScheme) -> np.ndarray:
    return np.stack([dequantize(quantize(matrix, scheme, matrix.dtype)) for matrix in stack])


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_mixture_is_that_with_each_experts_rounded_weights(
    mixture: Any, routed: Any, run_mixture: Run, scheme: WeightScheme
) -> None:
    experts = mixture(inner=48)  # no multiple of 32, so that the two linears' groups differ
    model = experts.model()
    done = QuantizeWeights(scheme)(model)
    assert done.names == ["gate_up", "down"]
    case = routed(experts)["forty tokens"]
    (found,) = run_mixture(model, case)
    exact = experts.computed(*case, rounded(experts.gate_up, scheme), rounded(experts.down, scheme))
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()


def test_groups_lie_along_k_and_a_channels_scale_is_a_group_of_all_k(mixture: Any) -> None:
    for group, blocks in ((32, (32, 16)), ("per-channel", (64, 48))):
        model = mixture(inner=48).model()
        QuantizeWeights(WeightScheme(4, group, True))(model)
        nodes = [node for node in model.graph if node.op_type == "DequantizeLinear"]
        assert tuple(node.attributes.get_int("block_size", 0) for node in nodes) == blocks
        assert {node.attributes.get_int("axis", 0) for node in nodes} == {1}
        assert not {"gate_up", "down"} & set(model.graph.initializers)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_one_scale_for_all_is_one_for_each_expert_repeated_for_its_channels(mixture: Any) -> None:
    experts = mixture(inner=48)
    model = experts.model()
    QuantizeWeights(WeightScheme(8, "per-tensor", True))(model)
    down = model.graph.initializers["down_scale"].const_value
    assert down is not None
    expected = [quantize(m, WeightScheme(8, "per-tensor", True)).scales for m in experts.down]
    scales = down.numpy()
    assert scales.shape == (4, 1, experts.down.shape[2])
    np.testing.assert_array_equal(scales, np.broadcast_to(expected, scales.shape))
    assert len(np.unique(scales)) == 4


def test_kept_experts_stay_in_float(mixture: Any) -> None:
    scheme = WeightScheme(4, 32, True)
    model = mixture().model()
    done = QuantizeWeights(scheme, kept={"down": "the recipe keeps it"})(model)
    assert done.names == ["gate_up"]
    assert done.left == {"the recipe keeps it": 4}
    assert "down" in model.graph.initializers


def test_another_group_than_asked_for_is_noted_for_every_expert(mixture: Any) -> None:
    scheme = WeightScheme(4, 32, True)
    notes = QuantizeWeights(scheme)(mixture(inner=48).model()).notes(scheme)
    assert notes == ("group 32 does not divide K = 48: group 16 used for 4 matrices",)


def test_a_second_time_changes_nothing(mixture: Any) -> None:
    model = mixture().model()
    scheme = WeightScheme(4, 32, True)
    QuantizeWeights(scheme)(model)
    assert QuantizeWeights(scheme)(model).names == []


def test_the_head_is_not_the_experts(mixture: Any) -> None:
    assert QuantizeWeights(WeightScheme(4, 32, True), head=True)(mixture().model()).names == []


@pytest.mark.parametrize("offsets", [False, True])
def test_given_codes_of_experts_are_read_one_expert_at_a_time(
    mixture: Any, routed: Any, run_mixture: Run, offsets: bool
) -> None:
    experts = mixture()
    read: list[str] = []
    random = np.random.default_rng(3)

    def given(name: str, stack: np.ndarray) -> tuple[GivenCodes, np.ndarray]:
        matrices = [quantize(matrix, WeightScheme(4, 32, True)) for matrix in stack]
        if offsets:
            shape = matrices[0].scales.shape
            added = [random.standard_normal(shape).astype(np.float32) / 50 for _ in matrices]
            matrices = [replace(m, offsets=a) for m, a in zip(matrices, added, strict=True)]

        def each() -> Iterator[QuantizedMatrix]:
            for matrix in matrices:
                read.append(name)
                yield matrix

        codes = GivenCodes(WeightScheme(4, 32, True), each, has_offsets=offsets)
        return codes, np.stack([dequantize(matrix) for matrix in matrices])

    gate_up, gate_up_weights = given("gate_up", experts.gate_up)
    down, down_weights = given("down", experts.down)
    model = experts.model()
    QuantizeWeights(None, given={"gate_up": gate_up, "down": down})(model)
    assert read == []
    case = routed(experts)["forty tokens"]
    (found,) = run_mixture(model, case)
    exact = experts.computed(*case, gate_up_weights, down_weights)
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()
