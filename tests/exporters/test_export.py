from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from transformers import LlamaConfig, T5Config

from castline.errors import UnsupportedArchitectureError
from castline.exporters import trace
from castline.exporters.checkpoint import Checkpoint, open_checkpoint
from castline.exporters.export import export
from castline.progress import SilentProgress

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def traced_layers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of layers of every trace that is made."""
    counted: list[int] = []
    plain = trace.trace

    def counting(cut: Any) -> ir.Model:
        counted.append(len(cut.model.model.layers))
        return plain(cut)

    monkeypatch.setattr(trace, "trace", counting)
    return counted


def test_exports_a_folder(
    sample: Callable[[str], Any], traced_layers: list[int], tmp_path: Path
) -> None:
    llama = sample("llama")
    llama.model.save_pretrained(tmp_path)
    exported = export(open_checkpoint(tmp_path), ir.DataType.FLOAT16, SilentProgress())
    assert exported.architecture == "LlamaForCausalLM"
    assert exported.layers == 3
    assert exported.untried is None
    assert exported.parameters == llama.model.num_parameters()
    assert exported.model.graph.outputs[0].dtype == ir.DataType.FLOAT16
    assert traced_layers == [2]


def test_weights_that_are_tied_in_the_configuration_alone_stay_apart(
    sample: Callable[[str], Any], session: Any, differences: Any, tmp_path: Path
) -> None:
    """A checkpoint with two different weights was trained untied; transformers says so, too."""
    from castline.compiler.targets.write import write_model

    llama = sample("llama")
    plain = llama.checkpoint()
    config = LlamaConfig(**llama.config.to_dict() | {"tie_word_embeddings": True})
    checkpoint = Checkpoint("tiny", config, plain.reader, plain.tokenizer_source, None)
    exported = export(checkpoint)
    assert {HEAD, EMBEDDING} <= set(exported.model.graph.initializers)
    assert exported.parameters == llama.model.num_parameters()
    assert config.tie_word_embeddings
    runtime = session(write_model(exported.model, tmp_path))
    assert max(differences(llama.model, lambda f: runtime.run(None, f)).values()) < 1e-4


def test_what_the_checkpoint_left_out_is_noted_by_reason(sample: Callable[[str], Any]) -> None:
    left_out = {"a.k_scale": "a scale of a cache", "b": "no use", "a.v_scale": "a scale of a cache"}
    exported = export(replace(sample("llama").checkpoint(), left_out=left_out))
    assert exported.notes == (
        "left out, a scale of a cache: a.k_scale, a.v_scale",
        "left out, no use: b",
    )
    assert HEAD in exported.checkpoint.tensors


def test_an_unknown_architecture_is_refused_before_anything_is_read(
    sample: Callable[[str], Any],
) -> None:
    plain = sample("llama").checkpoint()
    checkpoint = Checkpoint("tiny", T5Config(), plain.reader, plain.tokenizer_source, None)
    with pytest.raises(UnsupportedArchitectureError, match="'t5'"):
        export(checkpoint)
    assert plain.reader.reads == {}  # type: ignore[attr-defined]
    assert np.all([spec.dtype == np.float32 for spec in checkpoint.tensors.values()])
