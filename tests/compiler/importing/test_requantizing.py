"""No code changes unasked, and what changed is in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from castline.compiler import pipeline
from castline.compiler.importing.imported import imported
from castline.compiler.importing.placing import place_codes
from castline.compiler.importing.requantizing import SourceCodes, require_carrying
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import QuantParameters
from castline.compiler.recipes.load import load_recipe
from castline.errors import RecipeError, TargetError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.export import export
from castline.progress import SilentProgress

StoredIn = Callable[[str], Checkpoint]
AS_STORED, ROUNDED = load_recipe("as-stored"), load_recipe("w4a16-rtn")
CODES = 2 * 128 * (2 * 128 + 2 * 64 + 3 * 192) + 160 * 128


def rounded_anew(checkpoint: Checkpoint) -> ir.Model:
    model = export(checkpoint).model
    assert ROUNDED.weights_scheme is not None
    QuantizeWeights(ROUNDED.weights_scheme)(model)
    return model


def test_rounding_anew_is_refused_with_counts_and_what_it_costs(stored_in: StoredIn) -> None:
    checkpoint = stored_in("int8")
    codes = SourceCodes(checkpoint, ROUNDED, None, allow_lossy=False)
    with pytest.raises(TargetError) as raised:
        codes.judge(rounded_anew(checkpoint), ir.DataType.FLOAT, SilentProgress())
    words = str(raised.value)
    assert f"of {CODES:,} stored codes" in words
    assert "change and" in words
    assert "dB), in model.layers.0.self_attn.q_proj.weight" in words
    assert "'w4a16-rtn' quantizes what is quantized already; --recipe as-stored carries" in words
    assert "--allow-lossy compiles all the same" in words


def test_where_it_is_allowed_the_cost_is_returned(stored_in: StoredIn) -> None:
    checkpoint = stored_in("int8")
    codes = SourceCodes(checkpoint, ROUNDED, None, allow_lossy=True)
    carried = codes.judge(rounded_anew(checkpoint), ir.DataType.FLOAT, SilentProgress())
    assert 0 < carried.changed < CODES
    assert 15 < carried.sqnr_db < 30


def test_a_scale_of_an_input_that_is_rounded_is_refused_with_the_way_out(
    stored_in: StoredIn,
) -> None:
    checkpoint = stored_in("int8 static")
    stored = imported(checkpoint)
    third = {
        name: (scheme, QuantParameters(1 / 3, 0))
        for name, (scheme, _) in stored.activations.items()
    }
    model = export(checkpoint, ir.DataType.FLOAT16).model
    place_codes(model, stored)
    codes = SourceCodes(checkpoint, AS_STORED, replace(stored, activations=third), False)
    with pytest.raises(TargetError, match=r"15 scales of inputs are rounded.*use --dtype float32"):
        codes.judge(model, ir.DataType.FLOAT16, SilentProgress())


def test_a_float_checkpoint_has_no_codes_to_judge(tiny: Callable[[str], Any]) -> None:
    checkpoint = tiny("llama").checkpoint
    codes = SourceCodes(checkpoint, ROUNDED, None, allow_lossy=False)
    carried = codes.judge(rounded_anew(checkpoint), ir.DataType.FLOAT, SilentProgress())
    assert (carried.codes, carried.notes) == (0, ())
    require_carrying(checkpoint, ROUNDED, allow_lossy=False)


def test_there_must_be_codes_to_carry_over(tiny: Callable[[str], Any], stored_in: StoredIn) -> None:
    require_carrying(stored_in("int8"), AS_STORED, allow_lossy=False)
    plain = tiny("llama").checkpoint
    with pytest.raises(RecipeError, match=r"has none\. Use a recipe that quantizes, such as"):
        require_carrying(plain, AS_STORED, allow_lossy=False)
    codes: Any = stored_in("int8").codes
    unpacked = replace(
        plain, codes=replace(codes, stored={}, dequantized={"a": "Q6_K", "b": "Q6_K"})
    )
    with pytest.raises(RecipeError, match=r"has none, of which only values can be had \(Q6_K\)\."):
        require_carrying(unpacked, AS_STORED, allow_lossy=False)


def test_a_search_is_refused_before_it_begins(stored_in: StoredIn) -> None:
    recipe = load_recipe("w8a8-smoothquant")
    with pytest.raises(
        RecipeError, match=r"searches codes anew, and .* stores those of 15 weights"
    ):
        require_carrying(stored_in("int8"), recipe, allow_lossy=False)
    require_carrying(stored_in("int8"), recipe, allow_lossy=True)
    codes = SourceCodes(stored_in("int8"), recipe, None, allow_lossy=True)
    model = export(stored_in("int8")).model
    assert codes.judge(model, ir.DataType.FLOAT, SilentProgress()).changed == CODES


@pytest.fixture
def compile_stored(
    stored_in: StoredIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluation_text: str
) -> Callable[..., Any]:
    """Compile the tiny Llama with its linears stored in one way."""

    def compile_it(way: str, **options: Any) -> Any:
        monkeypatch.setattr(pipeline, "open_checkpoint", lambda *_, **__: stored_in(way))
        defaults = {
            "recipe": ROUNDED,
            "as_stored": AS_STORED,
            "target": "onnxruntime",
            "evaluation_text": evaluation_text,
            "threads": 1,
        }
        return pipeline.compile_model("tiny", tmp_path / "out", **defaults | options)

    return compile_it


@pytest.mark.parametrize("target", ["onnxruntime", "onnx"])
@pytest.mark.parametrize("way", ["zero-points", "offsets", "act-order"])
def test_a_quantized_checkpoint_is_compiled_as_it_is_stored(
    compile_stored: Callable[..., Any], way: str, target: str
) -> None:
    gate = ("gate.top1_agreement=0.8", "gate.kl_divergence=0.1")  # random weights: flat logits
    outcome = compile_stored(way, target=target, as_stored=load_recipe("as-stored", gate))
    assert outcome.recipe == "as-stored"
    assert f"all {CODES:,} stored codes are carried over unchanged" in outcome.notes
    assert outcome.stored_codes["changed"] == outcome.stored_codes["rounded"] == 0
    assert outcome.language.kl_divergence < 0.02
    report = json.loads((outcome.output / "report.json").read_text())
    assert report["stored_codes"]["sqnr_db"] == "inf"


def test_another_recipe_publishes_nothing_unless_it_is_allowed(
    compile_stored: Callable[..., Any], tmp_path: Path
) -> None:
    asked = {"as_stored": None, "gate": False, "evaluation_text": None, "threads": None}
    with pytest.raises(TargetError, match="--allow-lossy"):
        compile_stored("int8", **asked)
    assert list(tmp_path.iterdir()) == []
    outcome = compile_stored("int8", allow_lossy=True, **asked)
    assert outcome.stored_codes["changed"] > 0
    assert any("stored codes" in note and "dB" in note for note in outcome.notes)
