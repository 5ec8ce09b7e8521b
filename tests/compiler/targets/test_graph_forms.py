"""The forms of cache and logits are asked for early, noted, and refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.package.manifest import read_manifest
from castline.compiler.pipeline import compile_model
from castline.compiler.recheck import check_output
from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.graph_forms import (
    cut_logits,
    fix_caches,
    form_facts,
    require_capacity,
    require_forms,
)
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.tensorrt.build import build_engine
from castline.compiler.targets.tensorrt.profile import Profile, Range, model_shapes
from castline.errors import TargetError
from castline.progress import SilentProgress

FIXED = TargetOptions(kv_cache="fixed", kv_capacity=64)
LAST = TargetOptions(logits="last")


def test_the_usual_forms_change_nothing(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    model = tiny("llama").model()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    require_forms(model, TargetOptions())
    assert fix_caches(model, TargetOptions(), 512) == ()
    assert cut_logits(tmp_path, TargetOptions()) == ()
    assert form_facts(TargetOptions(), 512) == {}
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("options", "capacity"), [(FIXED, 64), (TargetOptions(kv_cache="fixed"), 512)]
)
def test_the_capacity_is_noted_in_the_model(
    tiny: Callable[[str], Any], options: TargetOptions, capacity: int
) -> None:
    model = tiny("llama").model()
    require_forms(model, options)
    (note,) = fix_caches(model, options, 512)
    assert "write_indices" in note
    assert model.metadata_props["castline.cache_capacity"] == str(capacity)
    made = [n for n in model.graph if n.metadata_props.get("castline.pass") == "FixedCache"]
    assert {"TensorScatter"} < {node.op_type for node in made}
    assert form_facts(options, 512) == {"kv_cache": "fixed", "kv_capacity": capacity}


def test_a_cache_that_cannot_be_fixed_is_refused_by_name(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model()
    key = next(v for v in model.graph.inputs if v.name == "past_key_values.1.key")
    model.graph.append(ir.node("Neg", [key], name="/extra"))
    for refused in (require_forms, lambda m, o: fix_caches(m, o, 512)):
        with pytest.raises(TargetError, match=r"past_key_values\.1\.key: it is read by Neg") as e:
            refused(model, FIXED)
        assert str(e.value).endswith("Use --kv-cache growing.")


def test_an_encoder_has_neither(encoder: Any) -> None:
    model = encoder.model()
    with pytest.raises(TargetError, match="no cache that could be fixed"):
        require_forms(model, FIXED)
    with pytest.raises(TargetError, match="no logits to cut"):
        require_forms(model, LAST)


@pytest.mark.parametrize(("target", "kv_cache"), [("onnx", "fixed"), ("onnxruntime", "growing")])
def test_a_folder_in_both_forms_is_proved_published_and_checked_again(
    source: str, evaluation_text: str, tmp_path: Path, target: str, kv_cache: Any
) -> None:
    output = tmp_path / "out"
    options = TargetOptions(kv_cache=kv_cache, logits="last")
    outcome = compile_model(
        source,
        output,
        recipe=load_recipe("float", ()),
        target=target,
        options=options,
        evaluation_text=evaluation_text,
        threads=1,
    )
    assert outcome.language is not None
    assert outcome.language.kl_divergence < 1e-6
    assert any("logits: of the last token" in note for note in outcome.notes)
    assert read_manifest(output)["build"] == form_facts(options, 512)
    again = check_output(output, evaluation_text=evaluation_text, threads=1)
    assert again.language == outcome.language
    session = DecoderSession.open(output, threads=1, logits="last")
    assert session.logits(np.array([[5, 6, 7]])).shape == (1, 1, 160)


@pytest.mark.tensorrt
def test_an_engine_has_both_forms(
    tiny: Callable[[str], Any], written: Callable[[ir.Model], Path], tmp_path: Path
) -> None:
    model = tiny("llama").model()
    fix_caches(model, TargetOptions(kv_cache="fixed", kv_capacity=32), 512)
    path = written(model)
    small = Profile(batch=Range(1, 1, 2), sequence=Range(1, 4, 16), past=Range(0, 8, 32))
    facts = build_engine(
        path,
        tmp_path / "model.engine",
        profiles=model_shapes(path, small),
        logits="last",
        progress=SilentProgress(),
    )
    assert facts.layers["KV_CACHE_UPDATE"] == 4
    assert facts.profiles[0]["past_key_values.0.key"].max[2] == 32


def test_a_cache_holds_no_more_than_the_model_reads() -> None:
    require_capacity(FIXED, 64)
    require_capacity(TargetOptions(kv_cache="fixed"), 8)
    with pytest.raises(TargetError, match="--kv-capacity 64: the model reads 63 tokens at most"):
        require_capacity(FIXED, 63)
