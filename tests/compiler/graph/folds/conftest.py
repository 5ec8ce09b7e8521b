"""Build small graphs, and prove folds: on the graphs themselves and on Hugging Face's models."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.graph.folds.site import Edit, FoldPlan, Site
from castline.compiler.passes.fold import edit_parameter

Outputs = dict[str, torch.Tensor]
Build = Callable[..., ir.Model]
_SIZES = {"batch_size": 2, "sequence_length": 3, "past_sequence_length": 2}
_UNCHANGED = 1e-10  # relative, in double precision
_HARM = 1e-3


@pytest.fixture(scope="session")
def build() -> Build:
    """Return a function that makes a float64 graph of ONNX text.

    It reads x [batch_size, sequence_length, 8] and gives the values in `gives`; `parameters` are
    random, `constants` are as given, `past` is the name of a value cache [batch, 2, past, 2].
    """

    def graph(
        nodes: str,
        parameters: Mapping[str, tuple[int, ...]],
        constants: Mapping[str, Any] | None = None,
        gives: tuple[str, ...] = ("y",),
        past: tuple[str, ...] = (),
    ) -> ir.Model:
        inputs = ["double[batch_size, sequence_length, 8] x"]
        inputs += [f'double[batch_size, 2, past_sequence_length, 2] "{name}"' for name in past]
        outputs = ", ".join(f'double[] "{name}"' for name in gives)
        text = (
            f'<ir_version: 10, opset_import: ["": 23]> g ({", ".join(inputs)}) => '
            f"({outputs}) {{ {nodes} }}"
        )
        model = onnx.parser.parse_model(text)
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        random = np.random.default_rng(0)
        arrays = {name: random.uniform(0.5, 1.5, shape) for name, shape in parameters.items()}
        arrays |= {name: np.asarray(value) for name, value in (constants or {}).items()}
        for name, array in arrays.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))

    return graph


@pytest.fixture(scope="session")
def scale_for() -> Callable[[Site], np.ndarray]:
    """Return a scale for a site: random numbers from 1/4 to 4, the same in every run."""

    def scale(site: Site) -> np.ndarray:
        random = np.random.default_rng(zlib.crc32(site.value.encode()))
        return np.exp2(random.uniform(-2, 2, site.scales))

    return scale


@pytest.fixture(scope="session")
def proven(scale_for: Callable[[Site], np.ndarray]) -> Callable[[ir.Model], FoldPlan]:
    """Return the plan of a graph that `build` made, after trying each of its sites.

    A fold leaves the outputs as they are, apart from caches; the naive fold of a declined site
    does not.
    """

    def plan_of(model: ir.Model) -> FoldPlan:
        plan = fold_sites(model)
        expected = _run(model)
        for site in plan.sites:
            if not site.edits:
                continue
            folded = model.clone()
            for edit in site.edits:
                edit_parameter(folded, edit, scale_for(site))
            worst = max(
                np.abs(found - value).max() / np.abs(value).max()
                for found, value in zip(_run(folded), expected, strict=True)
            )
            assert worst < _UNCHANGED if site.foldable else worst > _HARM, site.value
        return plan

    return plan_of


def _run(model: ir.Model) -> list[np.ndarray]:
    """Return all outputs that are no cache, of two runs where there is one: it is read back."""
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    random = np.random.default_rng(1)
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        shape = [d if isinstance(d, int) else _SIZES[str(d.value)] for d in value.shape]
        if str(value.name).startswith("past"):
            shape[2] = 0
        feeds[str(value.name)] = random.normal(size=shape)
    found = []
    for _ in range(2):
        outputs = dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
        found += [array for name, array in outputs.items() if not name.startswith("present")]
        feeds |= {
            name: outputs["present." + name.removeprefix("past_key_values.")]
            for name in feeds
            if name.startswith("past")
        }
    return found


@contextmanager
def in_double() -> Iterator[None]:
    """Let models compute in float64 even where their code asks for float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@pytest.fixture(scope="session")
def outputs() -> Callable[[torch.nn.Module], Outputs]:
    """Return what a model computes for two texts: logits, hidden states, router logits."""

    def of(model: torch.nn.Module) -> Outputs:
        ids = torch.from_numpy(np.random.default_rng(0).integers(3, 131, (2, 16)))
        options = {"output_hidden_states": True}
        if hasattr(model.config, "output_router_logits"):
            options["output_router_logits"] = True
        with torch.inference_mode(), in_double():
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        found = {f"router {i}": t for i, t in enumerate(output.get("router_logits") or ())}
        # The last hidden state is behind the final norm, which a fold into the head changes.
        states = output.hidden_states[:-1] if "logits" in output else output.hidden_states
        found |= {f"hidden {i}": t for i, t in enumerate(states)}
        if "logits" in output:
            found["logits"] = output.logits
        return found

    return of


@pytest.fixture(scope="session")
def double() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Return a copy of a model in float64, which may be edited."""

    def of(model: torch.nn.Module) -> torch.nn.Module:
        copied = copy.deepcopy(model).double().eval()
        for module in copied.modules():
            if hasattr(module, "config"):
                module.config._experts_implementation = "eager"
        return copied

    return of


@pytest.fixture(scope="session")
def edit_model() -> Callable[[torch.nn.Module, Iterable[Edit], np.ndarray], None]:
    """Apply the edits of a site to the parameters of a torch model, in place."""

    def edit(model: torch.nn.Module, edits: Iterable[Edit], scale: np.ndarray) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for change in edits:
            stored = parameters[change.parameter].data
            scaling = change.scaling(scale, stored.ndim)
            stored.copy_(torch.from_numpy(scaling.of(stored.numpy())))

    return edit


@pytest.fixture(scope="session")
def worst_relative() -> Callable[[Outputs, Outputs], float]:
    """Return the largest relative difference, max|d| / max|expected|, of all outputs."""

    def worst(found: Outputs, expected: Outputs) -> float:
        return max(
            float((found[name] - value).abs().max() / value.abs().max())
            for name, value in expected.items()
        )

    return worst
