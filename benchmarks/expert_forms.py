"""Write one mixture of experts in every form that a runtime could compute it in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from castline.compiler.passes.dispatch_tokens import DispatchTokens
from castline.compiler.passes.qmoe import QMoE
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme

GROUP = 32
OPSETS = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>'

# Every expert on every token, as the exporter writes it.
DENSE = """
    length = Shape <start = 0, end = 1> (index)
    shape = Concat <axis = 0> (length, experts)
    nothing = Expand (zero, shape)
    routing = ScatterElements <axis = 1> (nothing, index, weights)
    turned = Transpose <perm = [1, 0]> (routing)
    by_expert = Unsqueeze (turned, last)
    rows = Unsqueeze (x, first)
    gates = MatMul (rows, gate_up)
    gate, up = Split <axis = -1, num_outputs = 2> (gates)
    sigmoid = Sigmoid (gate)
    silu = Mul (gate, sigmoid)
    inner = Mul (silu, up)
    answers = MatMul (inner, down)
    weighted = Mul (answers, by_expert)
    y = ReduceSum <keepdims = 0> (weighted, first)
"""

# transformers' batched_mm: the matrices of each token's experts are gathered for it.
BATCHED = """
    columns = Unsqueeze (x, middle)
    gate_ups = Gather (gate_up, index)
    gates = MatMul (columns, gate_ups)
    gate, up = Split <axis = -1, num_outputs = 2> (gates)
    sigmoid = Sigmoid (gate)
    silu = Mul (gate, sigmoid)
    inner = Mul (silu, up)
    downs = Gather (down, index)
    answers = MatMul (inner, downs)
    scales = Unsqueeze (weights, ends)
    weighted = Mul (answers, scales)
    summed = ReduceSum <keepdims = 0> (weighted, second)
    y = Squeeze (summed, second)
"""

# A loop over the experts that were chosen, each with the tokens gathered for it.
LOOP = """
    length = Shape <start = 0, end = 1> (index)
    shape = Concat <axis = 0> (length, experts)
    nothing = Expand (zero, shape)
    routing = ScatterElements <axis = 1> (nothing, index, weights)
    turned = Transpose <perm = [1, 0]> (routing)
    sums = ReduceSum <keepdims = 0> (turned, second)
    used_places = NonZero (sums)
    used = Squeeze (used_places, first)
    number = Shape (used)
    trip = Squeeze (number)
    start = Mul (x, zero)
    y = Loop <body = body (int64 step, bool go, float[T, H] sum) => (bool goes, float[T, H] more) {
        goes = Identity (go)
        expert = Gather (used, step)
        its_weights = Gather (turned, expert)
        token_places = NonZero (its_weights)
        tokens = Squeeze (token_places, first)
        rows = Gather (x, tokens)
        gate_up_e = Gather (gate_up, expert)
        gates = MatMul (rows, gate_up_e)
        gate, up = Split <axis = -1, num_outputs = 2> (gates)
        sigmoid = Sigmoid (gate)
        silu = Mul (gate, sigmoid)
        inner = Mul (silu, up)
        down_e = Gather (down, expert)
        answers = MatMul (inner, down_e)
        weights_e = Gather (its_weights, tokens)
        scales = Unsqueeze (weights_e, last)
        weighted = Mul (answers, scales)
        places = Unsqueeze (tokens, last)
        more = ScatterND <reduction = "add"> (sum, places, weighted)
    }> (trip, , start)
"""

# com.microsoft MoE makes its weights by a softmax over the chosen scores: logarithms undo it.
MOE = """
    length = Shape <start = 0, end = 1> (index)
    shape = Concat <axis = 0> (length, experts)
    nothing = Expand (zero, shape)
    routing = ScatterElements <axis = 1> (nothing, index, weights)
    above = Max (routing, tiny)
    logarithms = Log (above)
    normal = com.microsoft.MoE <k = {chosen}, activation_type = "swiglu", swiglu_fusion = 1,
        normalize_routing_weights = 1> (x, logarithms, interleaved, , turned_down)
    total = ReduceSum <keepdims = 1> (weights, second)
    y = Mul (normal, total)
"""


@dataclass(frozen=True)
class Sizes:
    """A mixture's: tokens are `hidden` wide, each gets `chosen` of the `experts`."""

    hidden: int
    inner: int
    experts: int
    chosen: int


@dataclass(frozen=True)
class Form:
    """One way to compute a mixture."""

    name: str
    weights: str  # "fp32", "int8" or "int4"
    build: Callable[[Sizes], ir.Model]
    longest: int = 1 << 30  # tokens beyond which it needs more memory than a machine has


def tokens(sizes: Sizes, count: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return so many random tokens [T, hidden], their distinct experts and the scores of those."""
    random = np.random.default_rng(count)
    index = np.argsort(random.random((count, sizes.experts)), axis=1)[:, : sizes.chosen]
    return {
        "x": random.standard_normal((count, sizes.hidden)).astype(np.float32),
        "index": index.astype(np.int64),
        "scores": random.standard_normal((count, sizes.chosen)).astype(np.float32),
    }


def _graph(body: str, sizes: Sizes) -> ir.Model:
    chosen = sizes.chosen
    model = ir.from_onnx_text(f"""
        {OPSETS}
        mixture (float[T, {sizes.hidden}] x, int64[T, {chosen}] index, float[T, {chosen}] scores,
                 float[E, H, I] gate_up, float[E, J, H] down,
                 float[E, I, H] interleaved, float[E, H, J] turned_down)
            => (float[T, {sizes.hidden}] y)
        <float zero = {{0}}, float tiny = {{1e-38}}, int64[1] experts = {{{sizes.experts}}},
         int64[1] first = {{0}}, int64[1] second = {{1}}, int64[1] last = {{-1}},
         int64[2] middle = {{1, 2}}, int64[2] ends = {{2, 3}}>
        {{
            weights = Sigmoid (scores)
            {body.replace("{chosen}", str(chosen))}
        }}
    """)
    arrays = _weights(sizes)
    for value in list(model.graph.inputs)[3:]:
        model.graph.inputs.remove(value)
        array = arrays[str(value.name)]
        value.shape, value.const_value = ir.Shape(array.shape), ir.Tensor(array, name=value.name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/experts/{node.outputs[0].name}"
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.ShapeInferencePass()(model)
    return model


def _weights(sizes: Sizes) -> dict[str, npt.NDArray[np.float32]]:
    random = np.random.default_rng(0)
    shape = (sizes.experts, sizes.hidden, 2 * sizes.inner)
    gate_up = random.standard_normal(shape, np.float32) / np.float32(sizes.hidden**0.5)
    shape = (sizes.experts, sizes.inner, sizes.hidden)
    down = random.standard_normal(shape, np.float32) / np.float32(sizes.inner**0.5)
    order = np.arange(2 * sizes.inner).reshape(2, sizes.inner).T.reshape(-1)
    return {
        "gate_up": gate_up,
        "down": down,
        "interleaved": np.ascontiguousarray(gate_up[:, :, order].transpose(0, 2, 1)),
        "turned_down": np.ascontiguousarray(down.transpose(0, 2, 1)),
    }


def _lowered(sizes: Sizes, *passes: Callable[[ir.Model], object]) -> ir.Model:
    model = _graph(DENSE, sizes)
    for each in passes:
        declined = each(model)
        assert not isinstance(declined, dict) or not declined, f"not what is measured: {declined}"
    return model


def _quantized(bits: int) -> QuantizeWeights:
    return QuantizeWeights(WeightScheme(bits, GROUP, symmetric=True))


FORMS = (
    Form("dense", "fp32", lambda sizes: _graph(DENSE, sizes)),
    Form("loop", "fp32", lambda sizes: _graph(LOOP, sizes)),
    Form("dispatched", "fp32", lambda sizes: _lowered(sizes, DispatchTokens())),
    Form("MoE", "fp32", lambda sizes: _graph(MOE, sizes)),
    Form("batched_mm", "fp32", lambda sizes: _graph(BATCHED, sizes), longest=16),
    Form("dense", "int8", lambda sizes: _lowered(sizes, _quantized(8))),
    Form("dispatched", "int8", lambda sizes: _lowered(sizes, _quantized(8), DispatchTokens())),
    Form("QMoE", "int8", lambda sizes: _lowered(sizes, _quantized(8), QMoE(eight_bits=True))),
    Form("dense", "int4", lambda sizes: _lowered(sizes, _quantized(4))),
    Form("dispatched", "int4", lambda sizes: _lowered(sizes, _quantized(4), DispatchTokens())),
    Form("QMoE", "int4", lambda sizes: _lowered(sizes, _quantized(4), QMoE())),
)
