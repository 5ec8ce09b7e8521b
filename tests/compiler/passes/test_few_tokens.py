"""Products in two-level groups read codes for few tokens, and bytes of the same for many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.choose_by_tokens import ChooseByTokens
from castline.compiler.passes.few_tokens import FewTokens
from castline.compiler.passes.matmul_integer_to_float import MatMulIntegerToFloat
from castline.compiler.passes.quantize_activations import QuantizeActivations
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme

Write = Callable[[ir.Model], Path]
NAMES = ("first.weight", "second.weight")
TWO_LEVELS = WeightScheme(4, 32, True, two_level=True)
PER_TOKEN = ActivationScheme(8, "per-token", dynamic=True)
K, N = 64, 24


def two_linears(
    weights: WeightScheme = TWO_LEVELS, activations: ActivationScheme | None = PER_TOKEN
) -> ir.Model:
    """Return y = relu(x @ W1) and z = x @ W2, quantized."""
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        two (int64[B, S] input_ids, float[B, S, {K}] x, float[{K}, {N}] w1, float[{K}, {N}] w2)
            => (float[B, S, {N}] y, float[B, S, {N}] z)
        {{ a = MatMul (x, w1)
           y = Relu (a)
           z = MatMul (x, w2) }}
    """)
    random = np.random.default_rng(0)
    for name in NAMES:
        value = model.graph.inputs.pop(2)
        value.name = name
        array = random.standard_normal((K, N)).astype(np.float32)
        value.const_value = ir.Tensor(array, name=name)
        model.graph.initializers.add(value)
    for node, name in zip(model.graph, ("first/MatMul", "Relu", "second/MatMul"), strict=True):
        node.name = f"/{name}"
    QuantizeWeights(weights)(model)
    if activations is not None:
        QuantizeActivations(dict.fromkeys(NAMES, (activations, None)))(model)
    return model


def run(path: Path, tokens: int) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((1, tokens, K)).astype(np.float32)
    feed = {"x": x, "input_ids": np.zeros((1, tokens), np.int64)}
    read = {node.name for node in session.get_inputs()}
    found = session.run(None, {name: array for name, array in feed.items() if name in read})
    return [np.asarray(output) for output in found]


def chosen(model: ir.Model) -> ir.Model:
    """Put both graphs into one, with float activations for few tokens."""
    few, declined = FewTokens(accuracy_level=1)(model)
    assert declined == {}
    assert few is not None
    MatMulIntegerToFloat()(model)
    ChooseByTokens(few)(model)
    return model


@pytest.mark.parametrize("symmetric", [True, False])
def test_few_tokens_meet_the_weights_and_many_the_codes_of_the_neutral_graph(
    written: Write, symmetric: bool
) -> None:
    scheme = ActivationScheme(8, "per-token", dynamic=True, symmetric=symmetric)
    # Float activations by the same weights: MatMulNBits has been told not to round them.
    in_float = written(two_linears(activations=None))
    in_codes = written(two_linears(activations=scheme))
    both = written(chosen(two_linears(activations=scheme)))
    for tokens, reference in ((1, in_float), (4, in_float), (5, in_codes), (40, in_codes)):
        for found, wanted in zip(run(both, tokens), run(reference, tokens), strict=True):
            assert np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max(), tokens


def test_nothing_is_quantized_before_few_tokens_and_the_weights_are_shared() -> None:
    model = two_linears()
    few, _ = FewTokens()(model)
    assert few is not None
    assert [node.op_type for node in few] == ["MatMulNBits", "Relu", "MatMulNBits"]
    first = few.node(0)
    assert first.inputs[0] is model.graph.inputs[1]
    assert first.attributes.get_int("accuracy_level") == 4
    assert first.inputs[1] is model.graph.initializers["first.weight_quantized_packed"]
    assert [node.op_type for node in model.graph].count("LinearW8A8") == 2
    stored = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    matrices = [tensor for tensor in stored if tensor.nbytes >= K * N // 2]
    assert [tensor.nbytes for tensor in matrices if tensor.dtype == ir.DataType.UINT8] == [
        K * N // 2
    ] * 2
    assert len([t for t in matrices if t.dtype != ir.DataType.UINT8]) <= 1  # the table of products


def test_the_second_time_nothing_is_left_to_do() -> None:
    model = two_linears()
    FewTokens()(model)
    count = len(model.graph)
    assert FewTokens()(model) == (None, {})
    assert len(model.graph) == count


def test_leaves_other_products_alone() -> None:
    model = two_linears(WeightScheme(8, "per-channel", True))
    assert FewTokens()(model) == (None, {})


def test_declines_activations_of_fewer_bits() -> None:
    model = two_linears(activations=ActivationScheme(6, "per-token", dynamic=True))
    before = [node.op_type for node in model.graph]
    few, declined = FewTokens()(model)
    assert few is None
    assert set(declined.values()) == {"its activations have fewer than 8 bits"}
    assert [node.op_type for node in model.graph] == before


def test_declines_graphs_with_control_flow() -> None:
    model = two_linears()
    inner = ir.Graph([], [], nodes=[], name="inner")
    branches = [ir.AttrGraph(name, inner) for name in ("then_branch", "else_branch")]
    model.graph.append(ir.Node("", "If", [None], branches, num_outputs=0, name="/If"))
    few, declined = FewTokens()(model)
    assert few is None
    assert set(declined.values()) == {"the graph chooses or repeats nodes at run time already"}
