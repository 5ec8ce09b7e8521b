"""Weights become codes behind a DequantizeLinear, and nothing else changes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from castline.compiler.check.original import OriginalModel
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix, dequantize, quantize
from castline.compiler.quant.scheme import GroupSize, RangeMethod, WeightScheme
from castline.compiler.targets.write import write_model
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.export import export
from castline.exporters.torch_model import assign

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
INT4 = WeightScheme(4, 32, False)


def linear(k: int, n: int = 6, dtype: type = np.float32, *, transposed: bool = False) -> ir.Model:
    """Return the model y = x @ W; `transposed` stores W as [N, K], read by another node too."""
    element = "float" if dtype is np.float32 else "float16"
    stored = f"{n}, {k}" if transposed else f"{k}, {n}"
    body = "y = MatMul (x, weight)"
    outputs = f"{element}[B, {n}] y"
    if transposed:
        body = "t = Transpose <perm = [1, 0]> (weight)\n y = MatMul (x, t)\n r = Gather (weight, i)"
        outputs += f", {element}[{k}] r"
    inputs = f"{element}[B, {k}] x, {element}[{stored}] weight" + (
        ", int64 i" if transposed else ""
    )
    model = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : 23]> linear ({inputs}) => ({outputs}) {{ {body} }}'
    )
    value = model.graph.inputs.pop(1)
    array = RANDOM.standard_normal((n, k) if transposed else (k, n)).astype(dtype)
    value.const_value = ir.Tensor(array, name="weight")
    model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/layer/{node.op_type}"
    return model


def run(path: Path, **feed: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], feed)[0])


@pytest.mark.parametrize("k", [128, 96, 48, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("bits", "group", "symmetric"),
    [
        *itertools.product((4, 8), (32, 128, "per-channel", "per-tensor"), (True, False)),
        *itertools.product((2, 3, 6), (16, "per-tensor"), (True, False)),
    ],
)
def test_the_product_is_that_with_the_rounded_weights(
    written: Write, bits: int, group: GroupSize, symmetric: bool, dtype: type, k: int
) -> None:
    scheme = WeightScheme(bits, group, symmetric)
    model = linear(k, dtype=dtype)
    weights = model.graph.initializers["weight"].const_value.numpy()  # type: ignore[union-attr]
    done = QuantizeWeights(scheme)(model)
    assert done.names == ["weight"]
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul"]
    assert "weight" not in model.graph.initializers
    x = RANDOM.standard_normal((3, k)).astype(dtype)
    rounded = dequantize(quantize(weights, scheme, dtype))
    expected = x.astype(np.float32) @ rounded
    tolerance = 1e-5 if dtype is np.float32 else 4e-3  # ten bits of fraction, and sums of them
    result = run(written(model), x=x).astype(np.float32)
    assert np.abs(result - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (WeightScheme(2, 32, True), ["INT4", "FLOAT"]),
        (WeightScheme(3, "per-tensor", False), ["UINT4", "FLOAT", "UINT4"]),
        (WeightScheme(4, 32, True), ["INT4", "FLOAT"]),
        (WeightScheme(4, 32, False), ["UINT4", "FLOAT", "UINT4"]),
        (WeightScheme(5, "per-channel", True), ["INT8", "FLOAT"]),
        (WeightScheme(6, 32, False), ["UINT8", "FLOAT", "UINT8"]),
        (WeightScheme(8, 32, True), ["INT8", "FLOAT"]),
        (WeightScheme(8, "per-channel", False), ["UINT8", "FLOAT", "UINT8"]),
    ],
)
def test_codes_have_the_type_that_the_scheme_asks_for(
    scheme: WeightScheme, expected: list[str]
) -> None:
    model = linear(64)
    QuantizeWeights(scheme)(model)
    parts = model.graph[0].inputs
    assert [part.dtype.name for part in parts if part is not None and part.dtype] == expected
    names = ["weight_quantized", "weight_scale", "weight_zero_point"]
    assert [part.name for part in parts if part is not None] == names[: len(expected)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("k", "groups"), [(128, 2), (96, 3), (100, None)])
def test_scales_of_two_levels_are_dequantized_themselves(
    written: Write, k: int, groups: int | None, dtype: type
) -> None:
    scheme = WeightScheme(4, 64, True, two_level=True)
    model = linear(k, dtype=dtype)
    weights = model.graph.initializers["weight"].const_value.numpy()  # type: ignore[union-attr]
    QuantizeWeights(scheme)(model)
    stored = model.graph.initializers
    operators = Counter(node.op_type for node in model.graph)
    assert operators == {"DequantizeLinear": 1 if groups is None else 2, "MatMul": 1}
    assert stored["weight_scale"].shape == (6,), "k without a group has one scale a channel anyway"
    if groups is not None:
        assert stored["weight_group_scale"].dtype == ir.DataType.INT8
        assert stored["weight_group_scale"].shape == (groups, 6)
    rounded = dequantize(quantize(weights, scheme, dtype))
    # The products of integers, scales and codes are exact in float16, too.
    result = run(written(model), x=np.eye(k, dtype=dtype))
    np.testing.assert_array_equal(result, rounded.astype(dtype), strict=True)


def test_a_weight_that_another_node_reads_stays_for_it(written: Write) -> None:
    model = linear(64, transposed=True)
    weights = model.graph.initializers["weight"].const_value.numpy()  # type: ignore[union-attr]
    QuantizeWeights(INT4)(model)
    assert sorted(node.op_type for node in model.graph) == ["DequantizeLinear", "Gather", "MatMul"]
    x = RANDOM.standard_normal((2, 64)).astype(np.float32)
    expected = x @ dequantize(quantize(weights.T, INT4))
    np.testing.assert_allclose(
        run(written(model), x=x, i=np.array(0, np.int64)), expected, rtol=1e-4, atol=1e-4
    )


def test_a_group_that_does_not_divide_k_is_reported() -> None:
    model = linear(576)
    done = QuantizeWeights(replace(INT4, group_size=128))(model)
    assert done.regrouped == Counter({(576, 64): 1})
    assert model.graph[0].attributes.get_int("block_size") == 64
    assert done.notes(WeightScheme(4, 128, False)) == (
        "group 128 does not divide K = 576: group 64 used for 1 matrix",
    )


def test_k_without_any_group_gets_one_scale_per_channel_and_is_reported() -> None:
    model = linear(100)
    done = QuantizeWeights(INT4)(model)
    assert "block_size" not in model.graph[0].attributes
    assert done.notes(INT4) == (
        "group 32 does not divide K = 100: one scale per channel used for 1 matrix",
    )


def test_one_scale_for_all_is_a_scalar() -> None:
    model = linear(64)
    done = QuantizeWeights(WeightScheme(8, "per-tensor", False))(model)
    assert not model.graph[0].attributes
    _, scale, zero_point = model.graph[0].inputs
    for part in (scale, zero_point):
        assert part is not None
        assert part.shape == ()
        assert part.const_value is not None
        assert part.const_value.numpy().shape == ()
    assert not done.regrouped


def test_the_range_that_the_scheme_asks_for_is_used(written: Write) -> None:
    model = linear(128)
    weights = model.graph.initializers["weight"].const_value.numpy()  # type: ignore[union-attr]
    scheme = WeightScheme(3, "per-channel", True, RangeMethod("mse"))
    QuantizeWeights(scheme)(model)
    x = np.eye(128, dtype=np.float32)
    found = run(written(model), x=x)
    assert (
        np.square(found - weights).sum()
        < 0.9
        * np.square(
            dequantize(quantize(weights, WeightScheme(3, "per-channel", True))) - weights
        ).sum()
    )
    np.testing.assert_allclose(found, dequantize(quantize(weights, scheme)), rtol=1e-6)


def test_what_is_kept_stays_in_float_and_is_told_with_its_reason(
    tiny: Callable[[str], Any],
) -> None:
    model = tiny("llama").model()
    named = [f"model.layers.{index}.mlp.down_proj.weight" for index in range(2)]
    kept = dict.fromkeys(named, "the recipe keeps it")
    done = QuantizeWeights(INT4, kept=kept)(model)
    assert len(done.names) == 2 * 6
    assert not set(done.names) & set(named)
    assert set(named) <= set(model.graph.initializers)
    assert done.left == {"the recipe keeps it": 2}
    assert done.notes(INT4) == ("2 matrices stay in float: the recipe keeps it",)


def test_the_head_is_quantized_only_when_it_is_meant(tiny: Callable[[str], Any]) -> None:
    layers = tiny("llama").model()
    done = QuantizeWeights(INT4)(layers)
    assert len(done.names) == 2 * 7
    assert "lm_head.weight" not in done.names
    assert QuantizeWeights(INT4, head=True)(layers).names == ["lm_head.weight"]


def test_a_tied_head_is_quantized_and_the_embedding_stays(
    tiny: Callable[[str], Any], written: Write
) -> None:
    model = tiny("tied").model()
    assert QuantizeWeights(INT4, head=True)(model).names == ["model.embed_tokens.weight"]
    assert "model.embed_tokens.weight" in model.graph.initializers
    written(model)


def test_twice_changes_nothing_more(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    QuantizeWeights(INT4)(model)
    once = [node.op_type for node in model.graph]
    again = QuantizeWeights(INT4)(model)
    assert again.names == []
    assert [node.op_type for node in model.graph] == once


@pytest.mark.parametrize("name", ["llama", "qwen2", "tied"])
def test_the_graph_equals_hugging_face_with_the_rounded_weights(
    tiny: Callable[[str], Any],
    written: Write,
    run_steps: Callable[..., list[np.ndarray]],
    name: str,
) -> None:
    scheme = WeightScheme(4, 64, False)
    tested = tiny(name)
    model = tested.model()
    done = QuantizeWeights(scheme)(model)
    original = OriginalModel.load(tested.checkpoint)
    for weight in done.names:
        rounded = dequantize(quantize(tested.checkpoint.read(weight).T, scheme)).T
        assign(original.model, weight, torch.from_numpy(np.ascontiguousarray(rounded)))
    tokens = RANDOM.integers(0, 160, (2, 11))
    mask = np.ones_like(tokens)
    mask[0, :4] = 0
    (result,) = run_steps(written(model), [(tokens, mask)])
    expected = original.logits(tokens, mask)[mask.astype(bool)]
    assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()


def test_every_tensor_of_the_checkpoint_is_read_once(
    tiny: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny("llama").checkpoint
    reads: Counter[str] = Counter()
    real = Checkpoint.read

    def read(self: Checkpoint, name: str) -> np.ndarray:
        reads[name] += self is checkpoint  # and not the view of it under the model's names
        return real(self, name)

    monkeypatch.setattr(Checkpoint, "read", read)
    model = export(checkpoint).model
    QuantizeWeights(INT4)(model)
    QuantizeWeights(INT4, head=True)(model)
    assert not reads, "nothing is read before the model is written"
    write_model(model, tmp_path)
    assert reads == Counter(list(checkpoint.tensors))


def test_the_written_file_holds_the_codes(written: Write) -> None:
    model = linear(64, n=64)
    weights = model.graph.initializers["weight"].const_value.numpy()  # type: ignore[union-attr]
    QuantizeWeights(WeightScheme(8, 32, True))(model)
    saved = onnx.load(written(model))
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in saved.graph.initializer}
    matrix = quantize(weights, WeightScheme(8, 32, True))
    np.testing.assert_array_equal(stored["weight_quantized"], matrix.codes)
    np.testing.assert_array_equal(stored["weight_scale"], matrix.scales)


def test_routers_and_gates_of_one_output_stay_in_float() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 23]>
        routed (float[B, 32] x, float[32, 8] router, float[32, 1] gate, float[32, 8] plain)
            => (chosen, counted, y) <int64[1] two = {2}>
        {
            scores = MatMul (x, router)
            probabilities = Softmax (scores)
            values, chosen = TopK (probabilities, two)
            product = MatMul (x, gate)
            counted = Sigmoid (product)
            y = MatMul (x, plain)
        }
    """)
    for value in list(model.graph.inputs)[1:]:
        model.graph.inputs.remove(value)
        assert value.shape is not None
        value.const_value = ir.Tensor(np.ones(value.shape.numpy(), np.float32), name=value.name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/{node.outputs[0].name}/{node.op_type}"
    done = QuantizeWeights(INT4)(model)
    assert done.names == ["plain"]
    assert done.notes(INT4) == (
        "1 matrix stays in float: it chooses experts",
        "1 matrix stays in float: it has a single output",
    )
    assert {"router", "gate"} <= set(model.graph.initializers)


def given_codes(k: int, n: int, *, offsets: bool = False) -> tuple[GivenCodes, QuantizedMatrix]:
    """Return codes that no rounding would give."""
    codes = RANDOM.integers(-8, 8, (k, n)).astype(np.int8)
    scales = RANDOM.uniform(0.1, 1, (k // 32, n)).astype(np.float16)
    added = RANDOM.standard_normal((k // 32, n)).astype(np.float32) if offsets else None
    matrix = QuantizedMatrix(codes, scales, None, added)
    return GivenCodes(WeightScheme(4, 32, True), lambda: (matrix,), has_offsets=offsets), matrix


@pytest.mark.parametrize("scheme", [WeightScheme(8, "per-channel", False), None])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("offsets", [False, True])
def test_given_codes_are_placed_whatever_the_scheme_says(
    written: Write, offsets: bool, transposed: bool, scheme: WeightScheme | None
) -> None:
    model = linear(64, transposed=transposed)
    given, matrix = given_codes(64, 6, offsets=offsets)
    kept = {"weight": "the recipe keeps it"}
    done = QuantizeWeights(scheme, kept=kept, given={"weight": given})(model)
    assert (done.names, done.left) == (["weight"], {})
    operators = [node.op_type for node in model.graph if node.op_type != "Gather"]
    assert operators == (["LinearW4A16"] if offsets else ["DequantizeLinear", "MatMul"])
    x = RANDOM.standard_normal((3, 64)).astype(np.float32)
    feed = {"i": np.array(0, np.int64)} if transposed else {}
    found = run(written(model), x=x, **feed)
    np.testing.assert_allclose(found, x @ dequantize(matrix), rtol=1e-4, atol=1e-4)
    assert ("weight" in model.graph.initializers) == transposed, "Gather reads it still"


def test_without_a_scheme_only_given_codes_are_placed(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    given, _ = given_codes(128, 128)
    name = "model.layers.1.self_attn.o_proj.weight"
    done = QuantizeWeights(None, given={name: given})(model)
    assert done.names == [name]
    assert done.notes(None) == ("13 matrices stay in float: the checkpoint stores it in float",)


def test_given_codes_of_the_head_are_placed_with_the_head(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    given, _ = given_codes(128, 160)
    head = {"lm_head.weight": given}
    assert QuantizeWeights(None, given=head)(model).names == []
    assert QuantizeWeights(None, head=True, given=head)(model).names == ["lm_head.weight"]
