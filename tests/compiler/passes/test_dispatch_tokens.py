"""Each expert sees the tokens that chose it, and the mixture computes what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from castline.compiler.passes.dispatch_tokens import DispatchTokens
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import GroupSize, WeightScheme

Run = Callable[..., list[np.ndarray]]


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(
    "sizes", [{}, {"experts": 7, "chosen": 3}, {"experts": 1, "chosen": 1}, {"signed": True}]
)
def test_every_routing_gives_what_the_dense_experts_give(
    mixture: Any, routed: Any, run_mixture: Run, sizes: dict[str, int]
) -> None:
    experts = mixture(**sizes)
    sparse = experts.model()
    assert DispatchTokens()(sparse) == {}
    cases = routed(experts)
    dense = run_mixture(experts.model(), *cases.values())
    for found, before, case in zip(
        run_mixture(sparse, *cases.values()), dense, cases.values(), strict=True
    ):
        assert error(found, before) <= 1e-5
        assert error(found, experts.computed(*case)) <= 1e-5


def test_each_experts_matrix_is_an_initializer_of_its_own(mixture: Any) -> None:
    experts = mixture()
    model = experts.model()
    DispatchTokens()(model)
    weights = {name: value for name, value in model.graph.initializers.items() if "." in name}
    assert set(weights) == {f"{name}.{e}" for name in ("gate_up", "down") for e in range(4)}
    for expert in range(4):
        tensor = weights[f"gate_up.{expert}"].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), experts.gate_up[expert])
    operators = Counter(node.op_type for node in model.graph)
    assert operators["MatMul"] == 2 * 4
    assert set(model.graph.opset_imports) == {""}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_biases_follow_the_rows_of_their_experts(
    mixture: Any, routed: Any, run_mixture: Run
) -> None:
    experts = mixture(biases=True)
    model = experts.model()
    assert DispatchTokens()(model) == {}
    case = routed(experts)["forty tokens"]
    (found,) = run_mixture(model, case)
    assert error(found, experts.computed(*case)) <= 1e-5


def test_half_precision_stays_half_precision(mixture: Any, routed: Any, run_mixture: Run) -> None:
    experts = mixture(dtype=np.float16)
    model = experts.model()
    DispatchTokens()(model)
    case = routed(experts)["forty tokens"]
    (found,) = run_mixture(model, case)
    assert found.dtype == np.float16
    assert error(found, experts.computed(*case)) <= 5e-3


@pytest.mark.parametrize("group", [32, "per-channel", "per-tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_taken_apart_with_their_scales(
    mixture: Any, routed: Any, run_mixture: Run, bits: int, symmetric: bool, group: GroupSize
) -> None:
    experts = mixture(inner=96)
    dense, sparse = experts.model(), experts.model()
    scheme = WeightScheme(bits, group, symmetric)
    for model in (dense, sparse):
        QuantizeWeights(scheme)(model)
    assert DispatchTokens()(sparse) == {}
    nodes = [node for node in sparse.graph if node.op_type == "DequantizeLinear"]
    assert len(nodes) == 2 * 4
    for node in nodes:  # the form that a matrix on its own has
        scales = node.inputs[1]
        assert scales is not None
        assert scales.shape is not None
        assert node.attributes.get_int("axis", 1) == (0 if group == 32 else 1)
        assert len(scales.shape) == (2 if group == 32 else 1)
    case = routed(experts)["forty tokens"]
    (found,), (wanted,) = run_mixture(sparse, case), run_mixture(dense, case)
    assert error(found, wanted) <= 1e-5


def test_experts_that_mix_tokens_stay_dense(mixture: Any) -> None:
    model = mixture(activation="inner = CumSum (up, experts)").model()
    declined = DispatchTokens()(model)
    assert declined == {"/experts/y": "CumSum in between may mix tokens"}
    assert "TopK" not in [node.op_type for node in model.graph]


def test_a_second_time_changes_nothing(mixture: Any) -> None:
    model = mixture().model()
    DispatchTokens()(model)
    once = ir.to_proto(model).SerializeToString()
    DispatchTokens()(model)
    assert ir.to_proto(model).SerializeToString() == once
