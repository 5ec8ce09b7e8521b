"""Quantize weights by llm-compressor, its AWQ, GPTQ or neither, and measure what is left."""

from __future__ import annotations

import torch
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationScheme,
)
from datasets import Dataset
from held_out import measure
from llmcompressor import oneshot  # type: ignore[import-not-found]
from llmcompressor.modifiers.gptq import GPTQModifier  # type: ignore[import-not-found]
from llmcompressor.modifiers.quantization import (  # type: ignore[import-not-found]
    QuantizationModifier,
)
from llmcompressor.modifiers.transform.awq import AWQModifier  # type: ignore[import-not-found]
from llmcompressor.pipelines.cache import IntermediatesCache  # type: ignore[import-not-found]
from transformers import PreTrainedModel
from weight_task import WeightTask

OBSERVERS = {"AWQ, clip": "memoryless_mse"}
"""Of the range of a group, where it is not the largest value; its recipes have no other clip."""


def quantize(
    model: PreTrainedModel, calibration: torch.Tensor, task: WeightTask
) -> PreTrainedModel:
    """Return the model with fake-quantized linears, all but the head."""
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(
            num_bits=task.bits,
            strategy="group",
            group_size=task.group_size,
            symmetric=task.symmetric,
            observer=OBSERVERS.get(task.method, "memoryless_minmax"),
        ),
    )
    rounds = GPTQModifier if task.method == "GPTQ" else QuantizationModifier
    recipe = [rounds(config_groups={"group_0": scheme}, ignore=["lm_head"])]
    if task.method.startswith("AWQ"):
        recipe.insert(0, AWQModifier())
        # It pins memory for an accelerator without asking whether there is one, and fails on a CPU.
        IntermediatesCache.pin_memory = lambda *_: None
    samples = calibration.tolist()
    masks = torch.ones_like(calibration).tolist()
    return oneshot(
        model=model,
        dataset=Dataset.from_dict({"input_ids": samples, "attention_mask": masks}),
        recipe=recipe,
        num_calibration_samples=len(samples),
        max_seq_length=calibration.shape[1],
        shuffle_calibration_samples=False,
    )


if __name__ == "__main__":
    measure(WeightTask, quantize, ["llmcompressor", "compressed-tensors"])
