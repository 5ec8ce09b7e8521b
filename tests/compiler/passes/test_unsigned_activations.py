"""Unsigned codes are the ops' codes plus 128, once for all that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.activation_codes import QUANTIZERS
from castline.compiler.passes.unsigned_activations import UnsignedActivations, UnsignedQuantizers
from castline.plugins.op import DOMAIN
from castline.plugins.quantize_per_tensor.op import (
    quantize_per_tensor,
    quantize_per_tensor_asymmetric,
)
from castline.plugins.quantize_per_token.op import quantize_per_token

Kind = tuple[str, bool]
REFERENCES = {
    ("per-token", True): quantize_per_token,
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


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        (("per-token", True), 8),
        (("per-token", True), 3),
        (("per-tensor", True), 8),
        (("per-tensor", True), 5),
        (("per-tensor", False), 8),
    ],
    ids=str,
)
def test_codes_are_those_of_the_op_plus_128(
    written: Callable[[ir.Model], Path],
    session: Callable[[Path], Any],
    kind: Kind,
    bits: int,
    dtype: type,
) -> None:
    model = quantizer(kind, bits, dtype)
    quantizers = UnsignedQuantizers(model.graph)
    unsigned = quantizers.of(model.graph[0])
    assert isinstance(unsigned, UnsignedActivations)
    assert quantizers.of(next(n for n in model.graph if n.domain == DOMAIN)) is unsigned
    model.graph.remove(next(n for n in model.graph if n.domain == DOMAIN))
    unsigned.codes.type = ir.TensorType(ir.DataType.UINT8)
    unsigned.codes.shape = model.graph.inputs[0].shape
    unsigned.scale.type = ir.TensorType(ir.DataType.FLOAT)
    unsigned.scale.shape = ir.Shape([None, None, 1] if kind[0] == "per-token" else [])
    model.graph.outputs[:] = [unsigned.codes, unsigned.scale]
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(dtype)
    x[0, 1] = 0
    codes, scale = session(written(model)).run(None, {"x": x})
    wanted = REFERENCES[kind](x, bits)
    np.testing.assert_array_equal(codes.astype(int), wanted[0].astype(int) + 128)
    np.testing.assert_array_equal(scale, wanted[1])


@pytest.mark.parametrize(
    ("kind", "bits", "reason"),
    [
        (("per-token", False), 8, "each token has a zero-point"),
        (("per-tensor", False), 6, "zero-points of 6-bit codes have no operator"),
    ],
)
def test_what_has_no_operator_is_declined(kind: Kind, bits: int, reason: str) -> None:
    model = quantizer(kind, bits)
    declined = UnsignedQuantizers(model.graph).of(model.graph[0])
    assert isinstance(declined, str)
    assert declined.startswith(reason)
    assert len(list(model.graph)) == 1
