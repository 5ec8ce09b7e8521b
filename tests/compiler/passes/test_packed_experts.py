"""Codes are packed along K, channel by channel, in the order asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.graph.stacked import StackedLinear, stacked_linears
from castline.compiler.passes.packed_experts import code_bits, common_block, packed_experts
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import GroupSize, WeightScheme


def linears(mixture: Any, scheme: WeightScheme) -> tuple[ir.Graph, tuple[StackedLinear, ...]]:
    model = mixture.model()
    QuantizeWeights(scheme)(model)
    return model.graph, stacked_linears(model)


def array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_packed_weight_stands_for_what_its_code_did(
    mixture: Any, bits: int, symmetric: bool
) -> None:
    graph, (linear, _) = linears(mixture(hidden=96), WeightScheme(bits, 32, symmetric))
    order = np.random.default_rng(0).permutation(linear.n)
    values = packed_experts(graph, linear, 16, order)
    codes, scales, *zeros = (array(value) for value in values)
    assert codes.shape == (4, linear.n, 96 * bits // 8)
    assert scales.shape == (4, linear.n, 96 // 16)

    def unpacked(packed: np.ndarray, count: int) -> np.ndarray:
        halves = [packed & 15, packed >> 4]
        flat = packed if bits == 8 else np.stack(halves, axis=-1).reshape(*packed.shape[:-1], -1)
        return flat[..., :count].astype(np.float32)

    zero = (
        unpacked(zeros[0], 6) if zeros else np.full((4, linear.n, 6), 1 << (bits - 1), np.float32)
    )
    weights = (unpacked(codes, 96) - np.repeat(zero, 16, -1)) * np.repeat(scales, 16, -1)
    # What the neutral form says: (code - zero-point) * scale, groups of 32 along K.
    raw, scale, *points = (array(v) for v in linear.dequantize.inputs)  # type: ignore[union-attr]
    point = np.repeat(points[0].astype(np.float32), 32, 1) if points else 0
    plain = (raw.astype(np.float32) - point) * np.repeat(scale, 32, 1)
    np.testing.assert_array_equal(weights, plain[:, :, order].transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("hidden", "inner", "group", "block"),
    [
        (64, 32, 32, 32),
        (64, 48, 32, 16),
        (64, 96, "per-channel", 32),
        (1024, 512, "per-channel", 256),
    ],
)
def test_the_block_divides_the_groups_of_both_linears(
    mixture: Any, hidden: int, inner: int, group: GroupSize, block: int
) -> None:
    sizes = {"hidden": hidden, "inner": inner, "experts": 2}
    _, found = linears(mixture(**sizes), WeightScheme(4, group, True))
    assert common_block(*found) == block


def test_there_is_no_block_below_sixteen(mixture: Any) -> None:
    _, found = linears(mixture(inner=40), WeightScheme(4, 32, True))
    assert common_block(*found) is None


def test_float_matrices_have_no_bits(mixture: Any) -> None:
    assert {code_bits(linear) for linear in stacked_linears(mixture().model())} == {None}
