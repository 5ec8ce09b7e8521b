"""One node does what attention, cache and rotary positions did, with a cache of either kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.group_query_attention import GroupQueryAttention

CONTEXT = 64
SCENARIOS = (
    "prefill", "decode", "left padding", "right padding", "pieces", "padded pieces", "one token",
)  # fmt: skip


@pytest.fixture(scope="module")
def graphs(
    tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path]]:
    """Return the file of a decoder before the pass, and after it."""
    from castline.compiler.targets.write import write_model

    made: dict[str, tuple[Path, Path]] = {}

    def of(name: str) -> tuple[Path, Path]:
        if name not in made:
            model = tiny(name).model()
            assert GroupQueryAttention(CONTEXT)(model) == {}
            made[name] = (tiny(name).graph, write_model(model, tmp_path_factory.mktemp(name)))
        return made[name]

    return of


@pytest.mark.parametrize("shared", [False, True], ids=["growing", "shared"])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_logits_stay_the_same(
    graphs: Callable[[str], tuple[Path, Path]],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    name: str,
    scenario: str,
    shared: bool,
) -> None:
    before, after = graphs(name)
    expected = run_steps(before, scenarios[scenario])
    result = run_steps(after, scenarios[scenario], shared=shared)
    for step, (found, wanted) in enumerate(zip(result, expected, strict=True)):
        apart = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert apart <= 1e-4, f"step {step} is {apart} off"


@pytest.mark.parametrize("shared", [False, True], ids=["growing", "shared"])
def test_a_sliding_window_is_kept_far_beyond_its_width(
    graphs: Callable[[str], tuple[Path, Path]],
    run_steps: Callable[..., list[np.ndarray]],
    shared: bool,
) -> None:
    before, after = graphs("mistral")  # a window of 6
    ids = np.random.default_rng(0).integers(0, 160, (1, 40))
    steps = [(ids[:, :30], None), *((ids[:, i : i + 1], None) for i in range(30, 40))]
    expected = run_steps(before, steps)
    for found, wanted in zip(run_steps(after, steps, shared=shared), expected, strict=True):
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
    # Two layers of a window of 6 see 11 tokens: what is before them must not matter.
    other = ids.copy()
    other[:, :20] = 7
    changed = run_steps(after, [(other[:, :30], None), *steps[1:]], shared=shared)
    for found, wanted in zip(changed[2:], expected[2:], strict=True):
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_every_attention_and_its_cache_become_one_node(
    tiny: Callable[[str], Any], written: Callable[[ir.Model], Path]
) -> None:
    model = tiny("llama").model()
    names = [value.name for value in model.graph.outputs]
    GroupQueryAttention(CONTEXT)(model)
    operators = [node.op_type for node in model.graph]
    assert operators.count("GroupQueryAttention") == 2
    assert not {"Attention", "RotaryEmbedding", "Transpose", "Cos"} & set(operators)
    assert [value.name for value in model.graph.outputs] == names
    tables = [name for name in model.graph.initializers if "cache" in name]
    assert tables == ["cos_cache", "sin_cache"], "all layers share the tables"
    written(model)


def test_tables_hold_as_many_positions_as_the_context(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    GroupQueryAttention(CONTEXT)(model)
    tables = [model.graph.initializers[name] for name in ("cos_cache", "sin_cache")]
    assert [table.shape for table in tables] == [(CONTEXT, 16), (CONTEXT, 16)]


def test_layers_of_other_angles_have_tables_of_their_own(
    tiny: Callable[[str], Any], written: Callable[[ir.Model], Path]
) -> None:
    model = tiny("llama").model()
    last = [node for node in model.graph if node.op_type == "RotaryEmbedding"][-2:]
    cos = last[0].inputs[1]
    assert cos is not None
    halved = ir.node("Add", [cos, cos])
    model.graph.insert_before(last[0], halved)
    for node in last:
        node.replace_input_with(1, halved.outputs[0])
    GroupQueryAttention(CONTEXT)(model)
    tables = {name for name in model.graph.initializers if "cache" in name}
    assert tables == {"cos_cache", "cos_cache.1", "sin_cache"}
    written(model)


def test_declines_head_sizes_that_the_node_does_not_turn(tiny: Callable[[str], Any]) -> None:
    model = tiny("odd").model()
    before = [node.op_type for node in model.graph], list(model.graph.initializers)
    declined = GroupQueryAttention(CONTEXT)(model)
    assert list(declined.values()) == ["its head size 24 is not a multiple of 16"] * 2
    assert ([node.op_type for node in model.graph], list(model.graph.initializers)) == before


def test_declines_angles_that_follow_from_more_than_positions(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    rotary = next(node for node in model.graph if node.op_type == "RotaryEmbedding")
    positions = next(value for value in model.graph.inputs if value.name == "position_ids")
    longest = ir.node("ReduceMax", [positions], {"keepdims": 0})
    factor = ir.node("Cast", [longest.outputs[0]], {"to": ir.DataType.FLOAT})
    turned = ir.node("Mul", [rotary.inputs[1], factor.outputs[0]])
    model.graph.insert_before(rotary, [longest, factor, turned])
    rotaries = [node for node in model.graph if node.op_type == "RotaryEmbedding"][:2]
    for node in rotaries:
        node.replace_input_with(1, turned.outputs[0])
    declined = GroupQueryAttention(CONTEXT)(model)
    reason = "its rotary angles depend on more than each token's position"
    assert list(declined.values()) == [reason]
    operators = [node.op_type for node in model.graph]
    assert operators.count("GroupQueryAttention") == 1, "the other layer is lowered all the same"


def test_declines_with_the_reason_and_changes_nothing(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    for node in model.graph:
        if node.op_type == "Attention":
            node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)
    before = [node.op_type for node in model.graph]
    declined = GroupQueryAttention(CONTEXT)(model)
    assert list(declined.values()) == ["it is causal by attribute"] * 2
    assert [node.op_type for node in model.graph] == before
    assert "com.microsoft" not in model.graph.opset_imports


def test_twice_changes_nothing_more(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    GroupQueryAttention(CONTEXT)(model)
    once = [node.op_type for node in model.graph], sorted(model.graph.initializers)
    assert GroupQueryAttention(CONTEXT)(model) == {}
    assert ([node.op_type for node in model.graph], sorted(model.graph.initializers)) == once


@pytest.mark.parametrize("shared", [False, True], ids=["growing", "shared"])
@pytest.mark.parametrize("scenario", ["prefill", "decode", "pieces", "one token"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
def test_without_a_bias_the_logits_of_rows_without_padding_stay_the_same(
    tiny: Callable[[str], Any],
    lengths_alone: Callable[[str], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    name: str,
    scenario: str,
    shared: bool,
) -> None:
    expected = run_steps(tiny(name).graph, scenarios[scenario])
    result = run_steps(lengths_alone(name), scenarios[scenario], shared=shared)
    for found, wanted in zip(result, expected, strict=True):
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_without_a_bias_a_prompt_may_be_padded_on_the_right(
    tiny: Callable[[str], Any],
    lengths_alone: Callable[[str], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
) -> None:
    prompt = scenarios["right padding"][:1]
    (expected,) = run_steps(tiny("llama").graph, prompt)
    (found,) = run_steps(lengths_alone("llama"), prompt)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_without_a_bias_neither_mask_nor_positions_reach_the_node(
    tiny: Callable[[str], Any], written: Callable[[ir.Model], Path]
) -> None:
    model = tiny("llama").model()
    assert GroupQueryAttention(CONTEXT, bias=False)(model) == {}
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    assert [[value is None for value in node.inputs[9:11]] for node in nodes] == [[True, True]] * 2
    assert not {"Where", "ArgMax", "Slice"} & {node.op_type for node in model.graph}
    written(model)


@pytest.fixture(scope="module")
def lengths_alone(
    tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return the file of a decoder after the pass without a bias."""
    from castline.compiler.targets.write import write_model

    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            model = tiny(name).model()
            assert GroupQueryAttention(CONTEXT, bias=False)(model) == {}
            made[name] = write_model(model, tmp_path_factory.mktemp(name))
        return made[name]

    return of
