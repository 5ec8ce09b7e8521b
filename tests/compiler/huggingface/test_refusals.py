"""What the format has no form for is refused, with a way out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.huggingface.refusals import (
    require_asked,
    require_codes_alone,
    require_no_experts,
    require_own_code,
    require_plan,
    require_recipe,
)
from castline.compiler.importing.imported import Imported
from castline.compiler.passes.transform_inputs import InputTransform
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.load import load_recipe
from castline.errors import RecipeError, TargetError


def test_every_field_of_a_recipe_is_named_at_once() -> None:
    wide = "{bits: 8, group_size: 32, symmetric: true}"
    changes = [f"head={wide}", f"embedding={wide}", "kv_cache={granularity: per-tensor}"]
    with pytest.raises(TargetError) as caught:
        require_recipe(load_recipe("w8a8-smoothquant", changes))
    for field in ("activations", "kv_cache", "head", "embedding"):
        assert f"{field} must be" in str(caught.value)
    require_recipe(load_recipe("w4a16-awq"))
    require_recipe(load_recipe("as-stored"))


def test_a_checkpoint_with_code_of_its_own_is_refused() -> None:
    own = type("Config", (), {"__module__": "transformers_modules.somebody.model"})()
    checkpoint: Any = SimpleNamespace(source="somebody/model", config=own)
    with pytest.raises(TargetError, match="somebody/model brings Python code of its own"):
        require_own_code(checkpoint)


def test_quantized_weights_are_quantized_anew_only_when_asked_to() -> None:
    stored: Any = SimpleNamespace(source="model", quantized={"up.weight": None})
    in_float: Any = SimpleNamespace(source="model", quantized={})
    rounded = load_recipe("w4a16-rtn")
    with pytest.raises(RecipeError, match="model stores those of 1 weights"):
        require_asked(stored, rounded, allow_lossy=False)
    require_asked(stored, rounded, allow_lossy=True)
    require_asked(stored, load_recipe("as-stored"), allow_lossy=False)
    require_asked(in_float, rounded, allow_lossy=False)


def test_codes_with_more_than_scales_and_zero_points_are_not_carried_over() -> None:
    offsets = GivenCodes(WeightScheme(4, 32, True), tuple, has_offsets=True)
    stored = Imported(
        given={"up": offsets}, transforms={"down": InputTransform(order=np.arange(4))}
    )
    with pytest.raises(TargetError, match=r"another order.*: down; offsets: up\. Use"):
        require_codes_alone(stored)
    require_codes_alone(Imported(given={"up": GivenCodes(WeightScheme(4, 32, True), tuple)}))


def test_a_division_in_the_graph_has_no_place() -> None:
    scale = np.full(4, 2.0)
    sites = [
        SimpleNamespace(site="gelu", explicit=True, scale=scale),
        SimpleNamespace(site="norm", explicit=False, scale=scale),
    ]
    with pytest.raises(TargetError, match=r"divides 1 values .*\(gelu\).*scaling.explicit=false"):
        require_plan(SimpleNamespace(sites=sites))  # type: ignore[arg-type]
    require_plan(SimpleNamespace(sites=sites[1:]))  # type: ignore[arg-type]


def test_stacks_of_experts_are_refused_unless_they_stay_in_float() -> None:
    stack = ir.Value(name="experts.down", shape=ir.Shape([2, 8, 4]))
    stack.const_value = ir.tensor(np.zeros((2, 8, 4), np.float32))
    read = ir.Value(name="read")
    node = ir.node("MatMul", [read, stack])
    graph = ir.Graph([read], node.outputs, nodes=[node], initializers=[stack])
    model = ir.Model(graph, ir_version=10)
    with pytest.raises(TargetError, match=r"experts.down would be quantized"):
        require_no_experts(model, ())
    require_no_experts(model, {"experts.down"})
