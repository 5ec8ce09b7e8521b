"""The graph with the stored codes computes what the checkpoint stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.importing.imported import Imported, imported
from castline.compiler.importing.placing import place_codes
from castline.compiler.passes.float8_casts import Float8Casts
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.export import export

StoredIn = Callable[[str], Checkpoint]
TOKENS = np.random.default_rng(0).integers(3, 150, (2, 13))
LINEARS = 2 * 7


def placed(checkpoint: Checkpoint) -> tuple[ir.Model, tuple[str, ...]]:
    model = export(checkpoint).model
    return model, place_codes(model, imported(checkpoint))


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("way", ["zero-points", "offsets", "act-order", "input scale", "int8"])
def test_logits_are_those_of_the_weights_that_the_codes_stand_for(
    stored_in: StoredIn,
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    way: str,
) -> None:
    checkpoint = stored_in(way)
    model, notes = placed(checkpoint)
    assert notes == ()
    (found,) = run_steps(written(model), [(TOKENS, None)])
    (wanted,) = run_steps(written(export(checkpoint).model), [(TOKENS, None)])
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("way", ["int8 dynamic", "int8 static", "float8 static"])
def test_activations_are_quantized_and_hardly_change_the_logits(
    stored_in: StoredIn,
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    way: str,
) -> None:
    checkpoint = stored_in(way)
    model, _ = placed(checkpoint)
    Float8Casts()(model)  # ONNX Runtime needs it
    (found,) = run_steps(written(model), [(TOKENS, None)])
    (wanted,) = run_steps(written(export(checkpoint).model), [(TOKENS, None)])
    off = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert 1e-4 < off < (0.5 if way == "int8 static" else 0.1)


def test_every_linear_has_its_codes(stored_in: StoredIn) -> None:
    model, _ = placed(stored_in("zero-points"))
    assert operators(model)["DequantizeLinear"] == LINEARS + 1
    names = {name for name in model.graph.initializers if name.endswith("_quantized")}
    assert names == {f"{name}_quantized" for name in stored_in("zero-points").quantized}
    offsets, _ = placed(stored_in("offsets"))
    assert operators(offsets)["LinearW4A16"] == LINEARS + 1


def test_linears_that_read_one_value_in_one_order_share_its_transform(stored_in: StoredIn) -> None:
    # q, k and v read one value, gate and up another; o, down and the head one each.
    for way, operator in (("act-order", "Gather"), ("input scale", "Mul")):
        plain, (model, _) = export(stored_in(way)).model, placed(stored_in(way))
        assert operators(model)[operator] - operators(plain)[operator] == 2 * 4 + 1


def test_what_stays_in_float_and_what_is_carried_by_value_is_told(stored_in: StoredIn) -> None:
    checkpoint = stored_in("int8")
    codes: Any = checkpoint.codes
    layer = "model.layers.0.mlp."
    stored = {name: one for name, one in codes.stored.items() if not name.startswith(layer)}
    values = {f"{layer}down_proj.weight": "Q6_K, stored in another way"}
    partial = replace(checkpoint, codes=replace(codes, stored=stored, dequantized=values))
    _, notes = placed(partial)
    assert notes == (
        "2 matrices stay in float: the checkpoint stores it in float",
        "1 matrix stays in float: only its values are carried: Q6_K, stored in another way",
    )


def test_activations_that_no_operator_quantizes_are_told(stored_in: StoredIn) -> None:
    _, notes = placed(stored_in("float8 dynamic"))
    assert notes == (
        f"{LINEARS + 1} linears read float where the checkpoint has codes of 8 bits: E4M3 by "
        "scales taken at run time has no operator yet",
    )


def test_codes_that_no_linear_reads_are_told(stored_in: StoredIn) -> None:
    found = imported(stored_in("int8"))
    model = export(stored_in("int8")).model
    given = {"model.embed_tokens.weight": found.given["lm_head.weight"]}
    notes = place_codes(model, Imported(given=given))
    assert notes[-1].startswith("no linear of the graph multiplies by model.embed_tokens.weight")


def test_twice_changes_nothing_more(stored_in: StoredIn) -> None:
    model, _ = placed(stored_in("zero-points"))
    once = operators(model)
    place_codes(model, imported(stored_in("zero-points")))
    assert operators(model) == once
