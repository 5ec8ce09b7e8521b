"""Quantize weights by AutoAWQ, with its clip search or without, and measure what is left."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from awq.models._config import AwqConfig  # type: ignore[import-not-found]  # in its own venv
from awq.models.llama import LlamaAWQForCausalLM  # type: ignore[import-not-found]
from awq.quantize.quantizer import AwqQuantizer  # type: ignore[import-not-found]
from held_out import measure
from torch.nn import Linear, Module
from transformers import PreTrainedModel
from weight_task import WeightTask

CLIPS = {"AWQ": False, "AWQ, clip": True}


class QuantizerOnCpu(AwqQuantizer):  # type: ignore[misc]
    """Its quantizer, with weights that are there again after each step of the search.

    It keeps them by `.cpu()`, which copies nothing on a CPU, and scales in place: every step would
    begin with the weights that the last one left.
    """

    def _search_best_scale(self, layer: Module, **site: Any) -> object:
        inspected: Module = site.get("module2inspect") or site["layers"][0]
        state = inspected.state_dict

        def copied_state() -> dict[str, torch.Tensor]:
            return {name: value.clone() for name, value in state().items()}

        with patch.object(inspected, "state_dict", copied_state):
            return super()._search_best_scale(layer, **site)


def quantize(
    model: PreTrainedModel, calibration: torch.Tensor, task: WeightTask
) -> PreTrainedModel:
    """Return the model with the weights that its quantizer finds for all linears but the head.

    Its packed linears run on CUDA only, so the weights are rounded by its own function instead.
    """
    # The cache would go along into every call of a layer, and grow.
    model.config.use_cache = False
    searched = LlamaAWQForCausalLM(model, "llama", False, model.config, AwqConfig(), None)
    config = {
        "w_bit": task.bits,
        "q_group_size": task.group_size,
        "zero_point": not task.symmetric,
    }
    searched.quantize(
        None,
        config,
        calib_data=calibration.tolist(),
        export_compatible=True,  # leaves the rounding to the line below
        apply_clip=CLIPS[task.method],
        max_calib_samples=len(calibration),
        max_calib_seq_len=calibration.shape[1],
        quantizer_cls=QuantizerOnCpu,
    )
    for linear in (module for module in model.model.modules() if isinstance(module, Linear)):
        linear.weight.data = searched.quantizer.pseudo_quantize_tensor(linear.weight.data)[0]
    return model


if __name__ == "__main__":
    measure(WeightTask, quantize, ["autoawq"])
