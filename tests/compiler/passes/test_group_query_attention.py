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
    tables = [name for name in model.graph.initializers if "_table" in name]
    assert len(tables) == 2, "all layers share the tables"
    written(model)


def test_tables_hold_as_many_positions_as_the_context(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    GroupQueryAttention(CONTEXT)(model)
    shapes = [v.shape for name, v in model.graph.initializers.items() if "_table" in name]
    assert shapes == [(CONTEXT, 16), (CONTEXT, 16)]


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
