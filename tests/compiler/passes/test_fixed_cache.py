"""New keys and values go into buffers, and attention reads what it read before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.passes.fixed_cache import FixedCache
from castline.compiler.passes.quantize_cache import QuantizeCache
from castline.compiler.plan.decisions import PlannedCache
from castline.compiler.targets.session import fixed_cache_feed

Write = Callable[[ir.Model], Path]
Run = Callable[..., list[np.ndarray]]
Steps = list[tuple[np.ndarray, np.ndarray | None]]

KINDS = ["llama", "gemma3_text", "gpt2", "falcon, ALiBi"]
"""Plain; sliding windows beside it; learned positions; scores that fall with the distance."""


def tokens_below(vocabulary: int, scenarios: dict[str, Any]) -> dict[str, Steps]:
    return {
        name: [(ids % vocabulary, mask) for ids, mask in steps] for name, steps in scenarios.items()
    }


def largest_difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True)
    )


def assert_equal_forms(
    sample: Any, written: Write, run_steps: Run, scenarios: dict[str, Any]
) -> None:
    """Run both forms, the fixed one with room to spare and without."""
    growing, model = written(sample.graph()), sample.graph()
    assert FixedCache()(model) == {}
    fixed = written(model)
    every = tokens_below(sample.config.vocab_size, scenarios)
    for scenario in ("decode", "left padding", "padded pieces"):
        steps = every[scenario]
        expected = run_steps(growing, steps)
        for roomy in (False, True):
            found = run_steps(fixed, steps, shared=roomy)
            assert largest_difference(found, expected) <= 1e-5, (scenario, roomy)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_attention_reads_the_same(
    sample: Callable[[str], Any],
    written: Write,
    run_steps: Run,
    scenarios: dict[str, Any],
    name: str,
) -> None:
    assert_equal_forms(sample(name), written, run_steps, scenarios)


@pytest.mark.slow
def test_every_architecture_reads_the_same(
    architecture: Any, written: Write, run_steps: Run, scenarios: dict[str, Any]
) -> None:
    if not architecture.skeleton.interface.cached:
        pytest.skip("an encoder has no cache")
    assert_equal_forms(architecture, written, run_steps, scenarios)


def test_a_token_reads_nothing_behind_its_own_place(
    tiny: Callable[[str], Any], written: Write
) -> None:
    """A runtime may set the mask to ones for good, and need not clear a buffer that it reuses."""
    model = tiny("llama").model()
    FixedCache()(model)
    session = onnxruntime.InferenceSession(written(model), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    ids = random.integers(0, 150, (1, 4))
    found = []
    for rest in (0, 1):
        caches = {
            node.name: rest * random.standard_normal((1, 2, 9, 32)).astype(np.float32)
            for node in session.get_inputs()
            if node.name.startswith("past")
        }
        feed = {"input_ids": ids, "position_ids": np.arange(4)[None], **caches}
        feed |= fixed_cache_feed(np.ones((1, 4), np.int64), 4, 9)
        if rest:
            feed["attention_mask"][:] = 1
        logits, *presents = session.run(None, feed)
        found.append([logits, *(present[:, :, :4] for present in presents)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_may_be_written_at_places_of_their_own(
    tiny: Callable[[str], Any], written: Write, run_steps: Run
) -> None:
    """Two texts of 3 and 5 tokens, neither padded, each get one more token."""
    model = tiny("llama").model()
    FixedCache()(model)
    fixed = written(model)
    ids = np.random.default_rng(0).integers(0, 150, (2, 6))
    lengths = (3, 5)
    expected = [
        run_steps(fixed, [(ids[row : row + 1, : n + 1], None)])[0][0, -1]
        for row, n in enumerate(lengths)
    ]
    session = onnxruntime.InferenceSession(fixed, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs() if node.name.startswith("past")]
    caches = {name: np.zeros((2, 2, 8, 32), np.float32) for name in names}
    mask = np.ones((2, 8), np.int64)
    for new, starts in ((ids[:, :5], (0, 0)), (np.stack([ids[0, 3:4], ids[1, 5:6]]), lengths)):
        at = np.array(starts)
        logits, *presents = session.run(
            None,
            {
                "input_ids": new,
                "attention_mask": mask,
                "position_ids": at[:, None] + np.arange(new.shape[1]),
                "write_indices": at,
                **caches,
            },
        )
        caches = dict(zip(names, presents, strict=True))
    np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_codes_are_written_where_the_cache_is_quantized(
    tiny: Callable[[str], Any], written: Write, run_steps: Run, scenarios: dict[str, Any], name: str
) -> None:
    paths = []
    for fixed in (False, True):
        model = tiny(name).model()
        scale = PlannedCache(np.array([0.03], np.float32), np.array([0.04], np.float32))
        assert QuantizeCache(dict.fromkeys(range(2), scale))(model).left == {}
        if fixed:
            assert FixedCache()(model) == {}
            scatters = [node for node in model.graph if node.op_type == "TensorScatter"]
            assert {node.inputs[1].producer().op_type for node in scatters} == {"QuantizeLinear"}  # type: ignore[union-attr]
            assert {node.outputs[0].dtype for node in scatters} == {ir.DataType.INT8}
        paths.append(written(model))
    for scenario in ("decode", "left padding", "pieces"):
        expected, found = (run_steps(path, scenarios[scenario]) for path in paths)
        # A key that lies between two codes may fall to the other where sums are added differently.
        assert largest_difference(found, expected) <= 0.02, scenario


def test_the_interface_names_capacity_and_indices(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    before = Counter(node.op_type for node in model.graph)
    FixedCache()(model)
    after = Counter(node.op_type for node in model.graph)
    assert after["TensorScatter"] == 4
    assert before["Concat"] - after["Concat"] == 4
    inputs = {value.name: value for value in model.graph.inputs}
    assert list(inputs)[:4] == ["input_ids", "attention_mask", "position_ids", "write_indices"]
    assert str(inputs["write_indices"].shape) == "[batch_size]"
    assert inputs["write_indices"].dtype == ir.DataType.INT64
    assert str(inputs["attention_mask"].shape) == "[batch_size,cache_capacity]"
    assert str(inputs["past_key_values.0.key"].shape) == "[batch_size,2,cache_capacity,32]"
    presents = [value for value in model.graph.outputs if value.name != "logits"]
    assert {str(value.shape) for value in presents} == {"[batch_size,2,cache_capacity,32]"}
    assert model.opset_imports[""] == 24


def test_twice_changes_nothing_more(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    FixedCache()(model)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    assert FixedCache()(model) == {}
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once


def test_what_it_declines_it_names_and_leaves_whole(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    key, value = (v for v in model.graph.inputs if str(v.name).startswith("past_key_values.1."))
    model.graph.append(ir.node("Neg", [key], name="/extra"))
    join = next(iter(value.uses())).node
    join.replace_input_with(0, join.inputs[1])
    join.replace_input_with(1, value)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert FixedCache()(model) == {
        "past_key_values.1.key": "it is read by Neg beside the Concat that appends to it",
        "past_key_values.1.value": "more happens to it than that new tokens are appended",
    }
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
