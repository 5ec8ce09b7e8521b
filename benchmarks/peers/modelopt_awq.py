"""Quantize weights by the AWQ of NVIDIA ModelOpt, and measure what is left."""

from __future__ import annotations

import modelopt.torch.quantization as mtq  # type: ignore[import-not-found]  # in its own venv
import torch
from held_out import measure
from transformers import PreTrainedModel
from weight_task import WeightTask

ALGORITHMS = {
    "round-to-nearest": "max",
    "AWQ": {"method": "awq_lite", "alpha_step": 0.1},  # as its preset says
    "AWQ, clip": {"method": "awq_full", "alpha_step": 0.1},
}


def quantize(
    model: PreTrainedModel, calibration: torch.Tensor, task: WeightTask
) -> PreTrainedModel:
    """Return the model with ModelOpt's quantizers in all linears but the head.

    Its INT4_AWQ_CFG with other bits and groups. It scales the input of every linear by itself,
    which costs a multiplication when the model runs where nothing can take the scale up.
    """
    assert task.symmetric, "ModelOpt's preset has no zero-points: no case asks for them"
    blocks = {"num_bits": task.bits, "block_sizes": {-1: task.group_size, "type": "static"}}
    rules = [
        {**rule, "cfg": {**rule["cfg"], **blocks}} if rule.get("cfg") else rule
        for rule in mtq.INT4_AWQ_CFG["quant_cfg"]
    ]

    def calibrate(quantized: PreTrainedModel) -> None:
        for sample in calibration:
            quantized(input_ids=sample[None], use_cache=False)

    config = {"quant_cfg": rules, "algorithm": ALGORITHMS[task.method]}
    with torch.no_grad():
        return mtq.quantize(model, config, forward_loop=calibrate)


if __name__ == "__main__":
    measure(WeightTask, quantize, ["nvidia-modelopt"])
