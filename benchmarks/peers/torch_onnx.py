"""Export a whole decoder with its cache by torch.onnx.export, as a user would write it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.export import Dim
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

OPSET = 23
BATCH, SEQUENCE, PAST = 2, 3, 5  # all different and above 1: the tracer takes a 1 for a constant


class WithCache(torch.nn.Module):  # type: ignore[misc]  # torch is not analysed: Any
    """A decoder whose cache goes in and out as plain tensors, key and value layer by layer."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=DynamicCache(list(zip(past[::2], past[1::2], strict=True))),
            use_cache=True,
        )
        present = [
            part for layer in output.past_key_values.layers for part in (layer.keys, layer.values)
        ]
        return [output.logits, *present]


def export(source: Path, out: Path) -> None:
    """Write `out`/model.onnx and its data in fp32."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    config = model.config
    parts = [(i, part) for i in range(config.num_hidden_layers) for part in ("key", "value")]
    cache_shape = (BATCH, config.num_key_value_heads, PAST, config.head_dim)
    batch, sequence, past = Dim("batch"), Dim("sequence"), Dim("past")
    out.mkdir(parents=True)
    torch.onnx.export(
        WithCache(model),
        (
            torch.ones(BATCH, SEQUENCE, dtype=torch.int64),
            torch.ones(BATCH, PAST + SEQUENCE, dtype=torch.int64),
            torch.arange(PAST, PAST + SEQUENCE).repeat(BATCH, 1),
            [torch.randn(cache_shape) for _ in parts],
        ),
        str(out / "model.onnx"),
        input_names=[
            "input_ids",
            "attention_mask",
            "position_ids",
            *(f"past_key_values.{i}.{part}" for i, part in parts),
        ],
        output_names=["logits", *(f"present.{i}.{part}" for i, part in parts)],
        dynamic_shapes=(
            {0: batch, 1: sequence},
            {0: batch, 1: Dim.DYNAMIC},
            {0: batch, 1: sequence},
            [{0: batch, 2: past} for _ in parts],
        ),
        dynamo=True,
        opset_version=OPSET,
        external_data=True,
    )


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
