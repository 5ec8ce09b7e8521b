"""Quantize by llm-compressor, with its SmoothQuant or without, and measure what is left."""

from __future__ import annotations

import torch
from activation_task import ActivationTask
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationScheme,
)
from datasets import Dataset
from held_out import measure
from llmcompressor import oneshot  # type: ignore[import-not-found]
from llmcompressor.modifiers.quantization import (  # type: ignore[import-not-found]
    QuantizationModifier,
)
from llmcompressor.modifiers.transform.smoothquant import (  # type: ignore[import-not-found]
    SmoothQuantModifier,
)
from transformers import PreTrainedModel

WEIGHTS = {"per-channel": "channel", "per-tensor": "tensor"}


def quantize(
    model: PreTrainedModel, calibration: torch.Tensor, task: ActivationTask
) -> PreTrainedModel:
    """Return the model with fake-quantized linears, all but the head.

    Its own scheme W8A8 is per-channel weights and dynamic per-token activations; the strength of
    its SmoothQuant is 0.5, and it folds at the norms.
    """
    granularity, scales = task.activations.split("-")
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=task.bits, strategy=WEIGHTS[task.weights]),
        input_activations=QuantizationArgs(
            num_bits=task.bits, strategy=granularity, dynamic=scales == "dynamic"
        ),
    )
    recipe = [QuantizationModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])]
    if task.smooth:
        strength = {} if task.alpha is None else {"smoothing_strength": task.alpha}
        recipe.insert(0, SmoothQuantModifier(**strength))
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
    measure(ActivationTask, quantize, ["llmcompressor", "compressed-tensors"])
