"""Complete the config.json of a written checkpoint: class, dtype, and how weights are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

_CONFIG = "config.json"


def complete_config(
    folder: Path, *, architecture: str, dtype: str, quantization: Mapping[str, object] | None
) -> None:
    """Add to the config.json in `folder` what loading a quantized model asks for.

    `architecture` is a class of transformers, such as "LlamaForCausalLM"; `dtype` is what the model
    computes in, such as "bfloat16"; `quantization` is the quantization_config.
    """
    path = folder / _CONFIG
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields.pop("torch_dtype", None)  # the dtype's older name
    fields |= {"architectures": [architecture], "dtype": dtype}
    if quantization is not None:
        fields["quantization_config"] = quantization
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
