"""Query, key and value are one product where they can be, and are left alone where not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.group_query_attention import GroupQueryAttention
from castline.compiler.passes.matmul_nbits import MatMulNBits
from castline.compiler.passes.pack_projections import PackProjections
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.targets.write import write_model
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.export import export

INT4 = WeightScheme(4, 32, False)
SCHEMES = (
    INT4,
    WeightScheme(4, 32, True),
    WeightScheme(8, 64, False),
    WeightScheme(8, "per-channel", True),
)


def lowered(model: ir.Model, scheme: WeightScheme = INT4) -> ir.Model:
    QuantizeWeights(scheme)(model)
    MatMulNBits(accuracy_level=1)(model)
    GroupQueryAttention(64)(model)
    return model


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_the_logits_stay_the_same(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    name: str,
    scheme: WeightScheme,
) -> None:
    model = lowered(tiny(name).model(), scheme)
    before = written(model)
    model = ir.load(before)
    count = len(model.graph)
    assert PackProjections()(model) == {}
    assert len(model.graph) == count - 2 * 2
    packed = [node for node in model.graph if "qkv_proj" in str(node.name)]
    assert [node.attributes.get_int("N") for node in packed] == [256, 256]
    path = "model.layers.0.self_attn.qkv_proj"
    expected = [f"{path}.weight_quantized_packed", f"{path}.weight_scale_packed"]
    expected += [] if scheme.symmetric else [f"{path}.weight_zero_point_packed"]
    expected += [f"{path}.bias"] if name == "qwen2" else []
    weights = [value.name for value in packed[0].inputs[1:] if value is not None]
    assert weights == expected
    after = written(model)
    steps = scenarios["left padding"]
    for found, wanted in zip(run_steps(after, steps), run_steps(before, steps), strict=True):
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "scheme",
    [
        WeightScheme(8, "per-channel", True),
        WeightScheme(4, "per-channel", False),
        WeightScheme(4, 32, True, two_level=True),
    ],
    ids=str,
)
def test_products_of_codes_by_codes_are_joined_bit_for_bit(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    multiply_codes: Callable[..., None],
    scheme: WeightScheme,
    symmetric: bool,
) -> None:
    model = tiny("llama").model()
    multiply_codes(model, scheme, symmetric=symmetric)
    GroupQueryAttention(64)(model)
    before = written(model)
    model = ir.load(before)
    count = len(model.graph)
    assert PackProjections()(model) == {}
    assert len(model.graph) == count - 2 * 2
    steps = scenarios["left padding"]
    for found, wanted in zip(
        run_steps(written(model), steps), run_steps(before, steps), strict=True
    ):
        assert (found == wanted).all()


def test_declines_products_whose_projections_have_one_scale_each(
    tiny: Callable[[str], Any], multiply_codes: Callable[..., None]
) -> None:
    model = tiny("llama").model()
    multiply_codes(model, WeightScheme(8, "per-tensor", True))
    GroupQueryAttention(64)(model)
    assert list(PackProjections()(model).values()) == ["each projection has one scale"] * 2


def test_declines_projections_that_are_not_quantized(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    GroupQueryAttention(64)(model)
    reason = "something stands between a projection and the attention"
    assert list(PackProjections()(model).values()) == [reason] * 2


def test_declines_heads_that_are_normed_in_between(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("qwen3").model())
    before = [node.op_type for node in model.graph]
    reason = "something stands between a projection and the attention"
    assert list(PackProjections()(model).values()) == [reason] * 2
    assert [node.op_type for node in model.graph] == before


def test_declines_projections_of_different_forms(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("llama").model())
    first = next(node for node in model.graph if node.op_type == "MatMulNBits")
    first.attributes["block_size"] = ir.AttrInt64("block_size", 64)
    reason = "the projections are quantized in different ways"
    assert list(PackProjections()(model).values()) == [reason]


def test_declines_projections_of_different_values(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("llama").model())
    first = next(node for node in model.graph if node.op_type == "MatMulNBits")
    source = first.inputs[0]
    assert source is not None
    copy = ir.node("Identity", [source])
    model.graph.insert_before(first, copy)
    first.replace_input_with(0, copy.outputs[0])
    assert list(PackProjections()(model).values()) == ["the projections read different values"]


def test_twice_changes_nothing_more(tiny: Callable[[str], Any]) -> None:
    model = lowered(tiny("llama").model())
    PackProjections()(model)
    once = [node.op_type for node in model.graph]
    assert PackProjections()(model) == {}
    assert [node.op_type for node in model.graph] == once


def test_every_tensor_of_the_checkpoint_is_still_read_once(
    tiny: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny("llama").checkpoint
    model = lowered(export(checkpoint).model)
    PackProjections()(model)
    reads: Counter[str] = Counter()
    real = Checkpoint.read

    def read(self: Checkpoint, name: str) -> np.ndarray:
        reads[name] += self is checkpoint  # and not the view of it under the model's names
        return real(self, name)

    monkeypatch.setattr(Checkpoint, "read", read)
    write_model(model, tmp_path)
    assert reads == Counter(list(checkpoint.tensors))
