"""config.json says what loading a quantized model asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from castline.compiler.huggingface.config import complete_config


def completed(folder: Path, quantization: dict[str, object] | None) -> Any:
    fields = {"model_type": "llama", "torch_dtype": "float32", "architectures": None}
    (folder / "config.json").write_text(json.dumps(fields))
    complete_config(
        folder, architecture="LlamaForCausalLM", dtype="bfloat16", quantization=quantization
    )
    return json.loads((folder / "config.json").read_text())


def test_class_dtype_and_quantization_are_added(tmp_path: Path) -> None:
    assert completed(tmp_path, {"format": "pack-quantized"}) == {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "quantization_config": {"format": "pack-quantized"},
    }


def test_a_model_in_float_has_no_quantization(tmp_path: Path) -> None:
    assert "quantization_config" not in completed(tmp_path, None)
