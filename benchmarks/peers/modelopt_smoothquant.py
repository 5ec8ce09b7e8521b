"""Quantize by NVIDIA ModelOpt, with its SmoothQuant or without, and measure what is left."""

from __future__ import annotations

import sys

import modelopt.torch.quantization as mtq  # type: ignore[import-not-found]  # in its own venv
import torch
from activation_task import ActivationTask
from held_out import measure
from transformers import PreTrainedModel

STATIC = "tensor-static"
INPUTS: dict[str, dict[str, object]] = {
    STATIC: {"axis": None},
    "token-dynamic": {"type": "dynamic", "block_sizes": {-1: None}},
}
WEIGHTS: dict[str, dict[str, object]] = {"per-channel": {"axis": 0}, "per-tensor": {"axis": None}}


def quantize(
    model: PreTrainedModel, calibration: torch.Tensor, task: ActivationTask
) -> PreTrainedModel:
    """Return the model with ModelOpt's quantizers in all linears but the head, as its presets say.

    INT8_SMOOTHQUANT_CFG is per-channel weights and static per-tensor activations, alpha 1. It
    divides the input of every linear when the model runs, where nothing can take the scale up too.
    """
    if task.smooth and (task.bits, task.activations) != (8, STATIC):
        sys.exit("ModelOpt smooths at 8 bits and static scales only; it leaves the rest unsmoothed")
    preset = mtq.INT8_SMOOTHQUANT_CFG if task.smooth else mtq.INT8_DEFAULT_CFG
    schemes = {
        "*weight_quantizer": {"num_bits": task.bits, **WEIGHTS[task.weights]},
        "*input_quantizer": {"num_bits": task.bits, **INPUTS[task.activations]},
    }
    rules = [
        {**rule, "cfg": schemes[rule["quantizer_name"]]} if rule.get("cfg") else rule
        for rule in preset["quant_cfg"]
    ]
    algorithm = preset["algorithm"]
    if task.alpha is not None:
        algorithm = {"method": "smoothquant", "alpha": task.alpha}

    def calibrate(quantized: PreTrainedModel) -> None:
        for sample in calibration:
            quantized(input_ids=sample[None], use_cache=False)

    config = {"quant_cfg": rules, "algorithm": algorithm}
    with torch.no_grad():
        return mtq.quantize(model, config, forward_loop=calibrate)


if __name__ == "__main__":
    measure(ActivationTask, quantize, ["nvidia-modelopt"])
