"""What a plan decided is what the graph computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.plan.decisions import QuantPlan
from castline.compiler.planning import quantize_model
from castline.compiler.recipes.load import load_recipe
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.rewriting import quantize_graph
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.linear_calls import LinearCalls
from castline.compiler.search.planned_linears import PlannedLinears, fold_planned
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.write import write_model
from castline.errors import OutputError
from castline.exporters.checkpoint import open_checkpoint
from castline.exporters.export import export

TOKENS = np.random.default_rng(0).integers(3, 150, (1, 40))
RECIPES = ("w8a8-smoothquant", "w8a8-smoothquant-o1", "w8a8-smoothquant-o2", "w8a8-smoothquant-o3")


@pytest.fixture(scope="module")
def planned(
    source: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Recipe, QuantPlan]]:
    text = tmp_path_factory.mktemp("calibration") / "text.txt"
    text.write_text(" ".join(f"w{i * i * 7 % 155}" for i in range(1000)))
    small = [f"calibration.text={text}", "calibration.samples=4", "calibration.length=32"]

    def of(name: str, *overrides: str) -> tuple[Recipe, QuantPlan]:
        recipe = load_recipe(name, [*small, *overrides])
        folder = tmp_path_factory.mktemp("plan") / "plan"
        return recipe, quantize_model(source, folder, recipe=recipe).plan

    return of


def logits(source: str, folder: Path, recipe: Recipe, plan: QuantPlan | None) -> Any:
    model = export(open_checkpoint(source)).model
    quantize_graph(model, recipe, plan)
    folder.mkdir()
    write_model(model, folder)
    return DecoderSession.open(folder, threads=1).logits(TOKENS)


def simulated(source: str, plan: QuantPlan) -> Any:
    """Return what the search expects of the quantized model: logits, or an encoder's states."""
    model = BlockModel(open_checkpoint(source))
    sites = {site.value: site for site in fold_sites(export(open_checkpoint(source)).model).sites}
    hidden = next(model.entering(TOKENS, len(TOKENS)))
    for index, block in enumerate(plan.blocks):
        with model.loaded(index):
            parameters = model.parameters(index)
            fold_planned(block, sites, parameters)
            with LinearCalls(parameters, PlannedLinears(block)):
                hidden = model.run(index, hidden)
    return model.logits(hidden).numpy()


def relative(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", RECIPES)
def test_the_graph_computes_what_the_search_expected(
    name: str, planned: Any, source: str, tmp_path: Path
) -> None:
    recipe, plan = planned(name)
    original = logits(source, tmp_path / "float", load_recipe("float"), None)
    found = logits(source, tmp_path / "codes", recipe, plan)
    assert 1e-4 < relative(found, original) < 0.1
    # A value between two codes may be rounded to either: sums differ in their last bit.
    assert relative(found, simulated(source, plan)) < 0.2 * relative(found, original)


def test_folding_alone_changes_nothing(planned: Any, source: str, tmp_path: Path) -> None:
    recipe, plan = planned("w8a8-smoothquant", "smoothing.sites=[norm, value, up]")
    assert sum(site.scale is not None for site in plan.sites) > 4
    floats = tuple(replace(b, linears=()) for b in plan.blocks)
    unquantized = recipe.model_copy(update={"weights": None, "activations": None})
    folded = logits(
        source, tmp_path / "folded", unquantized, QuantPlan(plan.identity, plan.recipe, floats)
    )
    original = logits(source, tmp_path / "float", load_recipe("float"), None)
    assert relative(folded, original) < 1e-5


AWQ = {
    "w4a16-awq": ("clipping.steps=4",),
    "w4a16-awq-sym": ("weights.group_size=32", "scaling.steps=4"),
    "w3a16-awq": ("scaling.steps=4",),
    "w4a16-awq per channel": ("weights.group_size=per-channel", "scaling.steps=4"),
}


@pytest.mark.parametrize("name", AWQ)
def test_the_graph_holds_the_codes_that_awq_chose(
    name: str, planned: Any, source: str, written: Any, run_steps: Any
) -> None:
    recipe, plan = planned(name.removesuffix(" per channel"), *AWQ[name])
    model = export(open_checkpoint(source)).model
    notes = quantize_graph(model, recipe, plan)
    assert any("3-bit codes are stored in 4 bits" in note for note in notes) == ("w3" in name)
    held = model.graph.initializers
    assert len(plan.codes) == 14
    for weight, given in plan.codes.items():
        (matrix,) = given.matrices()
        for part, expected in (
            ("quantized", matrix.codes),
            ("scale", matrix.scales),
            ("zero_point", matrix.zero_points),
        ):
            stored = held.get(f"{weight}_{part}")
            assert (stored is None) == (expected is None)
            if expected is not None:
                found = stored.const_value.numpy()
                assert np.array_equal(found.astype(np.float32), expected.reshape(found.shape))
    (found,) = run_steps(written(model), [(TOKENS, None)])
    assert relative(found, simulated(source, plan)) < 1e-5


def test_the_graph_divides_where_nothing_takes_awqs_scale_up(
    encoder: Any, sentences: str, written: Any, tmp_path: Path
) -> None:
    source = str(encoder.checkpoint.source)
    small = [f"calibration.text={sentences}", "calibration.samples=4", "calibration.length=32"]
    recipe = load_recipe("w3a16-awq", [*small, "scaling.explicit=true", "scaling.steps=4"])
    plan = quantize_model(source, tmp_path / "plan", recipe=recipe).plan
    explicit = [site for site in plan.sites if site.explicit]
    divided = {linear for site in explicit for linear in site.linears}
    assert divided > {f"encoder.layer.{index}.output.dense.weight" for index in range(2)}
    model = encoder.model()
    notes = quantize_graph(model, recipe, plan)
    assert not [note for note in notes if "dense" in note]
    assert sum("input_factor" in name for name in model.graph.initializers) == len(explicit)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(written(model), options)
    feed = {"input_ids": TOKENS, "attention_mask": TOKENS**0, "token_type_ids": TOKENS * 0}
    found = session.run(None, {value.name: feed[value.name] for value in session.get_inputs()})[0]
    assert relative(found, simulated(source, plan)) < 1e-5


def test_a_plan_that_divides_what_the_graph_does_not_have_is_refused(
    planned: Any, source: str
) -> None:
    recipe, plan = planned("w3a16-awq", "scaling.steps=2")
    block = plan.blocks[0]
    astray = replace(block.sites[-1], explicit=True, linears=("elsewhere.weight",))
    assert astray.channel_scale is not None
    blocks = (replace(block, sites=(*block.sites[:-1], astray)),)
    other = QuantPlan(plan.identity, plan.recipe, blocks)
    with pytest.raises(OutputError, match=r"divides what elsewhere.weight reads, and the graph"):
        quantize_graph(export(open_checkpoint(source)).model, recipe, other)


def test_folding_awqs_scales_alone_changes_nothing(
    planned: Any, source: str, tmp_path: Path
) -> None:
    recipe, plan = planned("w3a16-awq", "scaling.steps=4")
    assert sum(site.scale is not None for site in plan.sites) >= 6
    blocks = tuple(replace(block, linears=(), codes={}) for block in plan.blocks)
    floats = recipe.model_copy(update={"weights": None})
    unquantized = QuantPlan(plan.identity, plan.recipe, blocks)
    folded = logits(source, tmp_path / "folded", floats, unquantized)
    original = logits(source, tmp_path / "float", load_recipe("float"), None)
    assert relative(folded, original) < 1e-5


def test_a_plan_that_folds_where_the_graph_has_no_site_is_refused(
    planned: Any, source: str
) -> None:
    recipe, plan = planned("w8a8-smoothquant")
    block = plan.blocks[0]
    sites = (replace(block.sites[0], site="/elsewhere"), *block.sites[1:])
    other = QuantPlan(plan.identity, plan.recipe, (replace(block, sites=sites),))
    with pytest.raises(OutputError, match=r"folds 128 scales at /elsewhere, and the graph has no"):
        quantize_graph(export(open_checkpoint(source)).model, recipe, other)


def test_dynamic_activations_without_smoothing_need_no_plan(source: str) -> None:
    recipe = load_recipe("w8a8-smoothquant", ["algorithm=round-to-nearest", "keep=['*.0.mlp.*']"])
    model = export(open_checkpoint(source)).model
    quantize_graph(model, recipe, None)
    operators = Counter(node.op_type for node in model.graph if node.domain == "castline")
    assert operators == {"QuantizePerToken": 6, "LinearW8A8": 11}
    assert ir.to_proto(model).functions
