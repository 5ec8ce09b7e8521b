"""Unsigned codes are the ops' codes plus 128, once for all that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from castline.compiler.passes.activation_codes import QUANTIZERS
from castline.compiler.passes.unsigned_activations import UnsignedQuantizers
from castline.plugins.op import DOMAIN
from castline.plugins.quantize_per_tensor.op import (
    quantize_per_tensor,
    quantize_per_tensor_asymmetric,
)
from castline.plugins.quantize_per_token.op import quantize_per_token, quantize_per_token_asymmetric

Array = NDArray[Any]
Kind = tuple[str, bool]
Run = Callable[[Kind, int, Array], list[Array]]
REFERENCES = {
    ("per-token", True): quantize_per_token,
    ("per-token", False): quantize_per_token_asymmetric,
    ("per-tensor", True): quantize_per_tensor,
    ("per-tensor", False): quantize_per_tensor_asymmetric,
}


def quantizer(kind: Kind, bits: int, dtype: type = np.float32) -> ir.Model:
    """Return a graph of one node that quantizes x."""
    real = "float" if dtype is np.float32 else "float16"
    op = QUANTIZERS[kind]  # type: ignore[index]
    outputs = ", ".join(op.outputs)
    text = f"""
        <ir_version: 10, opset_import: ["" : 23, "{DOMAIN}" : 1]>
        g ({real}[B, S, 8] x) => (int8[B, S, 8] codes)
        {{ {outputs} = {DOMAIN}.{op.name} <bits = {bits}> (x) }}
    """
    model = ir.from_onnx_text(text)
    model.graph[0].name = "/quantize"
    return model


@pytest.fixture
def run_unsigned(written: Callable[[ir.Model], Path], session: Callable[[Path], Any]) -> Run:
    """Run what stands for a quantizer; return codes, scale and any zero-points of tokens."""

    def run(kind: Kind, bits: int, x: Array) -> list[Array]:
        model = quantizer(kind, bits, x.dtype.type)
        quantizers, (ours,) = UnsignedQuantizers(model.graph), list(model.graph)
        unsigned = quantizers.of(ours)
        assert quantizers.of(ours) is unsigned
        model.graph.remove(ours)
        shape = ir.Shape([None, None, 1] if kind[0] == "per-token" else [])
        values = [unsigned.codes, unsigned.scale, unsigned.token_zero_point]
        kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.FLOAT)
        shapes = (model.graph.inputs[0].shape, shape, shape)
        model.graph.outputs.clear()
        for value, dtype, each in zip(values, kinds, shapes, strict=True):
            if value is not None:
                value.type, value.shape = ir.TensorType(dtype), each
                model.graph.outputs.append(value)
        return [np.asarray(found) for found in session(written(model)).run(None, {"x": x})]

    return run


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        (("per-token", True), 8),
        (("per-token", True), 3),
        (("per-tensor", True), 8),
        (("per-tensor", True), 5),
        (("per-tensor", False), 8),
        (("per-token", False), 8),
    ],
    ids=str,
)
def test_codes_are_those_of_the_op_plus_128(
    run_unsigned: Run, kind: Kind, bits: int, dtype: type
) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(dtype)
    x[0, 1] = 0
    codes, scale, *zero_point = run_unsigned(kind, bits, x)
    wanted = REFERENCES[kind](x, bits)
    np.testing.assert_array_equal(codes.astype(int), wanted[0].astype(int) + 128)
    np.testing.assert_array_equal(scale, wanted[1])
    if kind == ("per-token", False):
        np.testing.assert_array_equal(zero_point, wanted[2:])


@pytest.mark.parametrize("granularity", ["per-token", "per-tensor"])
@pytest.mark.parametrize("bits", range(2, 8))
def test_codes_of_fewer_bits_are_steps_from_zero_plus_128(
    run_unsigned: Run, granularity: str, bits: int
) -> None:
    kind = (granularity, False)
    x = beyond_the_grid(bits)[: None if granularity == "per-token" else 1]
    wanted, wanted_scale, zero_point = (part.astype(float) for part in REFERENCES[kind](x, bits))
    assert (np.rint(x / wanted_scale) > wanted - zero_point).any(), "some are cut at the last code"
    codes, scale = run_unsigned(kind, bits, x)
    np.testing.assert_array_equal(codes, wanted - zero_point + 128)
    np.testing.assert_array_equal(scale, wanted_scale)


def test_codes_of_eight_bits_end_where_the_ops_do(run_unsigned: Run) -> None:
    x = beyond_the_grid(8)
    codes, scale, zero_point = run_unsigned(("per-token", False), 8, x)
    wanted, wanted_scale, wanted_zero = quantize_per_token_asymmetric(x, 8)
    assert (np.rint(x / wanted_scale) > wanted.astype(float) - wanted_zero).any()
    np.testing.assert_array_equal(codes, wanted.astype(int) + 128)
    np.testing.assert_array_equal(scale, wanted_scale)
    np.testing.assert_array_equal(zero_point, wanted_zero)


def beyond_the_grid(bits: int) -> Array:
    """Return tokens [T, 2, 8] whose ends stand halfway between codes, and others.

    Where both ends are rounded away from zero, the last is one beyond the codes.
    """
    steps, random = 2**bits - 1, np.random.default_rng(0)
    least = -np.arange(1.5, steps + 1.5).reshape(-1, 1, 1)
    halves = np.rint(random.uniform(0, 2 * steps, (steps, 2, 6))) / 2
    ends = np.broadcast_to(np.array([0, steps]), (steps, 2, 2))
    x = least + np.concatenate([ends, halves], axis=-1)
    others = random.standard_normal((9, 2, 8)) + np.arange(-4, 5).reshape(-1, 1, 1)
    result: Array = np.concatenate([x, others]).astype(np.float32)
    return result
