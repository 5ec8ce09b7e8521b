"""Quantize weights by NNCF, with its AWQ and its scale estimation or neither, and measure it."""

from __future__ import annotations

import nncf  # type: ignore[import-not-found]  # in its own venv
import torch
from held_out import measure
from transformers import PreTrainedModel
from weight_task import WeightTask

METHODS = {
    "round-to-nearest": {},
    "AWQ": {"awq": True},
    "AWQ, scales": {"awq": True, "scale_estimation": True},
}


def quantize(
    model: PreTrainedModel, calibration: torch.Tensor, task: WeightTask
) -> PreTrainedModel:
    """Return the model with INT4 weights in all linears but the head, decompressed as it runs."""
    assert task.bits == 4, "NNCF has INT4 and INT8 alone: no case asks for others"
    model.config.use_cache = False  # its trace would take the cache along
    samples = [{"input_ids": sample[None]} for sample in calibration]
    mode = nncf.CompressWeightsMode
    return nncf.compress_weights(
        model,
        mode=mode.INT4_SYM if task.symmetric else mode.INT4_ASYM,
        ratio=1.0,
        group_size=task.group_size,
        backup_mode=nncf.BackupMode.NONE,  # of embedding and head
        dataset=nncf.Dataset(samples),
        # A group that divides no row is made smaller for it.
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
        **METHODS[task.method],
    )


if __name__ == "__main__":
    measure(WeightTask, quantize, ["nncf"])
