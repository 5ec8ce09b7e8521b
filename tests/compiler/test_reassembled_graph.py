"""A graph of reassembled channels computes what the module does that reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM

from castline.compiler.passes.channel_factors import channel_factors
from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    PlannedLinear,
    PlannedReassembly,
    PlannedSite,
    QuantPlan,
)
from castline.compiler.quant.channel_map import ChannelMap
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix, quantize
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.recipes.load import load_recipe
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.rewriting import quantize_graph
from castline.compiler.targets.onnx import Onnx
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.errors import OutputError
from castline.exporters.checkpoint import open_checkpoint
from castline.exporters.export import export
from castline.plugins.four_bit_product import linear_w4, linear_w4_asymmetric
from castline.plugins.quantize_per_token.op import (
    quantize_per_token,
    quantize_per_token_asymmetric,
)
from castline.plugins.reassemble_channels.op import reassemble_channels

TOKENS = np.random.default_rng(0).integers(3, 150, (1, 40))

SITES = {  # the module that reads a value, perhaps which -> its linears
    "self_attn": ("q_proj", "k_proj", "v_proj"),
    "self_attn output": ("o_proj",),
    "mlp": ("gate_proj", "up_proj"),
    "mlp down": ("down_proj",),
}
REFERENCES: dict[str, Callable[..., Any]] = {
    "ReassembleChannels": reassemble_channels,
    "QuantizePerToken": quantize_per_token,
    "QuantizePerTokenAsymmetric": quantize_per_token_asymmetric,
    **{f"LinearW4A{bits}": linear_w4 for bits in (4, 8)},
    **{f"LinearW4A{bits}Asymmetric": linear_w4_asymmetric for bits in (4, 8)},
}


def channel_map(k: int, seed: int) -> ChannelMap:
    """Return a map that takes three channels apart, to nine places, and merges others for them."""
    order = np.random.default_rng(seed).permutation(k)
    split, copied, host, merged = order[:3], order[3:9], order[9:13], order[[3, 4, 5, 6, 7, 8]]
    gather, scale = np.arange(k), np.ones(k, np.float32)
    gather[copied] = np.repeat(split, 2)
    scale[split] = scale[copied] = np.float32(1 / 3)
    place = host[[0, 0, 1, 2, 3, 3]]  # where the channels that gave up their places stand
    shares = 1 / (1 + np.bincount(place, minlength=k))
    scale[host] = shares[host]
    return ChannelMap(gather, scale, place, merged, shares[place].astype(np.float32))


def relative(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@dataclass(frozen=True)
class Placed:
    """What a linear of the tiny Llama multiplies."""

    channels: ChannelMap | None
    weight: np.ndarray
    """[N, K], of the places."""
    codes: QuantizedMatrix | None


def placed_linears(source: str, scheme: WeightScheme | None) -> dict[str, Placed]:
    """Return every linear by the name of its weight; o_proj alone reads its value as it is."""
    stored, found = open_checkpoint(source), {}
    for layer, (seed, (part, linears)) in product(range(2), enumerate(SITES.items())):
        for linear in linears:
            name = f"model.layers.{layer}.{part.split()[0]}.{linear}.weight"
            weight = stored.read(name).astype(np.float32)
            own = linear == "o_proj"
            channels = None if own else channel_map(weight.shape[1], 10 * layer + seed)
            # In float the linear keeps its weight: the module and the graph read the same places.
            if channels is not None and scheme is not None:
                weight = channels.of_weights(weight)
            codes = None if scheme is None else quantize(weight.T, scheme)
            found[name] = Placed(channels, weight, codes)
    return found


def plan_of(placed: dict[str, Placed], recipe: Recipe) -> QuantPlan:
    scheme, none = recipe.weights_scheme, np.zeros(0, np.float32)
    linears = tuple(
        PlannedLinear(name, scheme, recipe.activations_scheme, None, None, None, None, 0, 0)
        for name in placed
    )
    sites = tuple(
        PlannedSite(
            name,
            "",
            (name,),
            none,
            none,
            *(None, None, None, None, None, None),
            reassembly=PlannedReassembly(each.channels, (name,), 1, "merge-error", 0, 0, None),
        )
        for name, each in placed.items()
        if each.channels is not None
    )
    codes = {
        name: GivenCodes(scheme, lambda codes=each.codes: (codes,))  # type: ignore[misc]
        for name, each in placed.items()
        if scheme is not None
    }
    block = PlannedBlock(0, "model.layers.0", linears, sites, None, codes)
    facts = CalibrationFacts("shipped", "0" * 64, 1, 1, 0, chat_template=False)
    return QuantPlan(PlanIdentity("0" * 64, {}, facts, "1"), {}, (block,))


def module_logits(source: str, placed: dict[str, Placed], recipe: Recipe) -> Any:
    """Return what the module of transformers gives where its linears compute as the plan says."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    for name, each in placed.items():
        linear = model.get_submodule(name.removesuffix(".weight"))
        linear.forward = partial(output_of, each, recipe.activations_scheme)
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits.numpy()


def output_of(placed: Placed, scheme: ActivationScheme | None, x: torch.Tensor) -> torch.Tensor:
    values = x.numpy() if placed.channels is None else placed.channels.of_values(x.numpy())
    matrix = placed.codes
    if matrix is None or scheme is None:
        return torch.from_numpy(values @ placed.weight.T)
    zeros = np.zeros_like(matrix.scales) if matrix.zero_points is None else matrix.zero_points
    weights = (matrix.codes, matrix.scales[0], zeros[0])
    if scheme.symmetric:
        return torch.from_numpy(linear_w4(*quantize_per_token(values, scheme.bits), *weights))
    codes = quantize_per_token_asymmetric(values, scheme.bits)
    return torch.from_numpy(linear_w4_asymmetric(*codes, *weights))


def rewritten(source: str, recipe: Recipe, plan: QuantPlan | None) -> ir.Model:
    model = export(open_checkpoint(source)).model
    assert quantize_graph(model, recipe, plan) == ()
    return model


def test_linears_read_reassembled_channels_as_the_module_does(
    source: str, written: Any, run_steps: Any
) -> None:
    recipe = load_recipe("float")
    placed = placed_linears(source, None)
    plans = (plan_of(placed, recipe), None)
    found, original = (
        run_steps(written(rewritten(source, recipe, plan)), [(TOKENS, None)])[0] for plan in plans
    )
    assert relative(found, module_logits(source, placed, recipe)) < 1e-6
    assert relative(found, original) > 0.1


CONTEXT = 128
FOUR_BITS = ("algorithm=round-to-nearest", "weights.bits=4")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_codes_of_reassembled_channels_multiply_as_the_module_does(
    source: str, written: Any, run_steps: Any, symmetric: str, bits: int
) -> None:
    settings = [f"{part}.symmetric={symmetric}" for part in ("weights", "activations")]
    recipe = load_recipe("w8a8-smoothquant", [*FOUR_BITS, f"activations.bits={bits}", *settings])
    placed = placed_linears(source, recipe.weights_scheme)
    model = rewritten(source, recipe, plan_of(placed, recipe))
    op = f"LinearW4A{bits}{'' if symmetric == 'true' else 'Asymmetric'}"
    operators = Counter(node.op_type for node in model.graph if node.domain == "castline")
    assert (operators[op], operators["ReassembleChannels"]) == (14, 6)
    placing = [node for node in model.graph if node.op_type == "ReassembleChannels"]
    # Gains of norms multiply what q, k, v, gate and up read, scales of up what down reads.
    assert [np.unique(channel_factors(node)).tolist() for node in placing] == [[1]] * 6
    wanted = module_logits(source, placed, recipe)
    lost = relative(wanted, module_logits(source, placed_linears(source, None), recipe))
    for lower in (Onnx().lower, OnnxRuntime().lower):
        lower(model, CONTEXT)
        (found,) = run_steps(written(model), [(TOKENS, None)])
        # A value between two codes may be rounded to either: sums differ in their last bit.
        assert relative(found, wanted) < 0.02 * lost
    lowered = Counter(node.op_type for node in model.graph)
    # Query, key and value are one product, and so are gate and up.
    assert (lowered["MatMulIntegerToFloat"], lowered["ReassembleChannels"]) == (8, 0)


def test_a_plan_that_reassembles_what_the_graph_does_not_have_is_refused(source: str) -> None:
    recipe = load_recipe("float")
    placed = placed_linears(source, None)
    placed["elsewhere.weight"] = placed["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(OutputError, match=r"reassembles what elsewhere.weight reads, and the"):
        quantize_graph(export(open_checkpoint(source)).model, recipe, plan_of(placed, recipe))


@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_every_op_of_ours_is_its_reference_bit_for_bit(
    source: str, written: Any, symmetric: str
) -> None:
    settings = [f"{part}.symmetric={symmetric}" for part in ("weights", "activations")]
    recipe = load_recipe("w8a8-smoothquant", [*FOUR_BITS, "activations.bits=4", *settings])
    plan = plan_of(placed_linears(source, recipe.weights_scheme), recipe)
    model = rewritten(source, recipe, plan)
    ours = [node for node in model.graph if node.domain == "castline"]
    assert {node.op_type for node in ours} <= REFERENCES.keys()
    read = {v: None for node in ours for v in (*node.inputs, *node.outputs) if v is not None}
    stored = {str(v.name): v.const_value for v in read if v.const_value is not None}
    shown = [v for v in read if str(v.name) not in stored and not v.is_graph_output()]
    model.graph.outputs.extend(shown)
    session = onnxruntime.InferenceSession(written(model), providers=["CPUExecutionProvider"])
    length = TOKENS.shape[1]
    feed = {"input_ids": TOKENS, "attention_mask": TOKENS**0, "position_ids": [[*range(length)]]}
    for value in session.get_inputs():
        if value.name.startswith("past"):  # [batch, heads, past, head size], of no past
            feed[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    names = [value.name for value in session.get_outputs()]
    feed = {value.name: np.asarray(feed[value.name]) for value in session.get_inputs()}
    values = dict(zip(names, session.run(None, feed), strict=True))
    values |= {name: np.asarray(tensor.numpy()) for name, tensor in stored.items()}
    for node in ours:
        attributes = {key: value.as_int() for key, value in node.attributes.items()}
        inputs = [values[str(value.name)] for value in node.inputs if value is not None]
        wanted = REFERENCES[node.op_type](*inputs, **attributes)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for value, expected in zip(node.outputs, wanted, strict=True):
            np.testing.assert_array_equal(values[str(value.name)], expected, strict=True)
