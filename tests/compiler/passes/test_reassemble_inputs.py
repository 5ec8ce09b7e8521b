"""What linears read is reassembled, once for all that do so alike, and others read it as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.dispatch_tokens import DispatchTokens
from castline.compiler.passes.reassemble_inputs import ReassembleInputs
from castline.compiler.quant.channel_map import ChannelMap, identity

Write = Callable[[ir.Model], Path]
RANDOM = np.random.default_rng(0)
K = 8
# Channel 2 stands at three places, a third each; 0 and 1 at one place, as 4, 5 and 6.
PLACED = ChannelMap(
    np.array([0, 2, 2, 3, 4, 2, 7, 7]),
    np.array([1 / 2, 1 / 3, 1 / 3, 1, 1 / 3, 1 / 3, 1 / 2, 1 / 2], np.float32),
    np.array([0, 4, 4]),
    np.array([1, 5, 6]),
    np.array([1 / 2, 1 / 3, 1 / 3], np.float32),
)


def copy_of(channels: ChannelMap) -> ChannelMap:
    return ChannelMap(**{name: part.copy() for name, part in vars(channels).items()})


def two_linears(dtype: type = np.float32) -> ir.Model:
    """Return y = x @ a + x @ b."""
    kind = "float" if dtype is np.float32 else "float16"
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        linears ({kind}[B, {K}] x, {kind}[{K}, 4] a, {kind}[{K}, 4] b) => ({kind}[B, 4] y)
        {{ first = MatMul (x, a)
           second = MatMul (x, b)
           y = Add (first, second) }}
    """)
    for value in list(model.graph.inputs)[1:]:
        model.graph.inputs.remove(value)
        array = RANDOM.standard_normal((K, 4)).astype(dtype)
        value.const_value = ir.Tensor(array, name=value.name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = f"/{node.outputs[0].name}/{node.op_type}"
    return model


def weight(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("channels", [PLACED, identity(K)], ids=["placed", "identity"])
def test_the_linear_reads_the_places_and_others_do_not(
    written: Write, channels: ChannelMap, dtype: type
) -> None:
    model = two_linears(dtype)
    a, b = weight(model, "a"), weight(model, "b")
    assert ReassembleInputs({"a": channels})(model) == ()
    x = RANDOM.standard_normal((3, K)).astype(dtype)
    read = channels.of_values(x).astype(np.float32)
    expected = read @ a + x.astype(np.float32) @ b
    tolerance = 1e-5 if dtype is np.float32 else 1e-2
    np.testing.assert_allclose(run(written(model), x), expected, rtol=tolerance, atol=tolerance)


def test_the_product_stays_the_same_where_the_channels_of_a_place_are_alike(
    written: Write,
) -> None:
    model = two_linears()
    x = RANDOM.standard_normal((3, K)).astype(np.float32)
    x[:, 1], x[:, 5], x[:, 6] = x[:, 0], x[:, 4], x[:, 4]
    expected = run(written(model), x)
    for name in ("a", "b"):
        placed = PLACED.of_weights(weight(model, name).T).T
        model.graph.initializers[name].const_value = ir.Tensor(placed, name=name)
    ReassembleInputs(dict.fromkeys("ab", PLACED))(model)
    np.testing.assert_allclose(run(written(model), x), expected, rtol=1e-5, atol=1e-5)


def test_linears_of_one_value_and_one_map_share_it() -> None:
    model = two_linears()
    ReassembleInputs({name: copy_of(PLACED) for name in "ab"})(model)
    assert operators(model) == ["ReassembleChannels", "MatMul", "MatMul", "Add"]
    parts = ("gather", "scale", "place", "channel", "channel_scale")
    assert set(model.graph.initializers) == {"a", "b", *(f"a.input_{part}" for part in parts)}


def test_other_maps_are_other_nodes() -> None:
    model = two_linears()
    ReassembleInputs({"a": PLACED, "b": identity(K)})(model)
    assert operators(model) == [*2 * ("ReassembleChannels", "MatMul"), "Add"]


def test_experts_read_the_places_and_still_get_their_tokens_alone(
    mixture: Any, routed: Any, run_mixture: Callable[..., list[np.ndarray]]
) -> None:
    experts = mixture(inner=K)
    random = np.random.default_rng(1)
    width = experts.hidden
    into = ChannelMap(
        random.integers(0, width, width),
        random.uniform(0.2, 1, width).astype(np.float32),
        *list(vars(PLACED).values())[2:],
    )
    case = routed(experts)["forty tokens"]
    model = experts.model()
    assert ReassembleInputs({"gate_up": into, "down": PLACED})(model) == ()
    (dense,) = run_mixture(model, case)
    assert DispatchTokens()(model) == {}
    (sparse,) = run_mixture(model, case)
    (before,) = run_mixture(experts.model(), case)
    np.testing.assert_allclose(sparse, dense, rtol=1e-5, atol=1e-5)
    assert np.abs(dense - before).max() > 0.01


def test_names_without_a_linear_are_returned() -> None:
    model = two_linears()
    assert ReassembleInputs({"c": PLACED})(model) == ("c",)
    assert operators(model) == ["MatMul", "MatMul", "Add"]
    assert not model.functions
