"""A linear's stacks are read one expert at a time, even after its nodes are gone."""

from __future__ import annotations

from typing import Any

import numpy as np

from castline.compiler.graph.stacked import stacked_linears
from castline.compiler.passes.expert_weights import expert_by_expert, group_of, stacks
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme


def test_float_experts_are_their_matrices(mixture: Any) -> None:
    experts = mixture()
    gate_up, _ = stacked_linears(experts.model())
    assert [value.name for value in stacks(gate_up)] == ["gate_up"]
    read = list(expert_by_expert(gate_up)())
    assert len(read) == experts.experts
    for (matrix,), wanted in zip(read, experts.gate_up, strict=True):
        np.testing.assert_array_equal(matrix, wanted)


def test_codes_come_with_their_scales_and_zero_points(mixture: Any) -> None:
    model = mixture().model()
    QuantizeWeights(WeightScheme(8, 32, False))(model)
    gate_up, _ = stacked_linears(model)
    names = [f"gate_up_{part}" for part in ("quantized", "scale", "zero_point")]
    assert [value.name for value in stacks(gate_up)] == names
    assert group_of(gate_up) == 32
    read = expert_by_expert(gate_up)
    for node in reversed(list(model.graph)):
        model.graph.remove(node, safe=False)
    shapes = [[part.shape for part in parts] for parts in read()]
    assert shapes == [[(64, 64), (2, 64), (2, 64)]] * 4
