"""Find the list of layers in a model of any architecture."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from castline.errors import UnsupportedArchitectureError


def layer_stack(
    model: torch.nn.Module, config: PretrainedConfig
) -> tuple[str, torch.nn.ModuleList]:
    """Return the list of a model's layers and its path, such as "model.layers".

    Raises UnsupportedArchitectureError where there is not one list of num_hidden_layers modules.
    """
    depth = config.num_hidden_layers
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth
    ]
    if len(found) != 1:
        raise UnsupportedArchitectureError(
            f"{type(model).__name__}: expected one list of {depth} layers "
            f"(config.json: num_hidden_layers), found {len(found)}."
        )
    return found[0]
