"""Export a whole decoder with its cache by transformers.exporters: one graph, the lightest way."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.export import Dim
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

OPSET = 23
BATCH, SEQUENCE, PAST = 2, 3, 5  # all different and above 1: the tracer takes a 1 for a constant


def export(source: Path, out: Path) -> None:
    """Write `out`/model.onnx and its data in fp32."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    config = model.config
    layers = range(config.num_hidden_layers)
    shape = (BATCH, config.num_key_value_heads, PAST, config.head_dim)
    inputs = {
        "input_ids": torch.ones(BATCH, SEQUENCE, dtype=torch.int64),
        "attention_mask": torch.ones(BATCH, PAST + SEQUENCE, dtype=torch.int64),
        "position_ids": torch.arange(PAST, PAST + SEQUENCE).repeat(BATCH, 1),
        "past_key_values": DynamicCache([(torch.randn(shape), torch.randn(shape)) for _ in layers]),
    }
    # Explicit axes, as the exporter itself advises for speed; it finds equal ones by itself.
    free = Dim.DYNAMIC
    axes = {
        "input_ids": {0: free, 1: free},
        "attention_mask": {0: free, 1: free},
        "position_ids": {0: free, 1: free},
        "past_key_values": [{0: free, 2: free} for _ in layers for _ in ("key", "value")],
    }
    options = OnnxConfig(dynamic=True, dynamic_shapes=axes, opset_version=OPSET)
    OnnxExporter().export(model, inputs, config=options).save_pretrained(out)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
