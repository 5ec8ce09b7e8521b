"""Ask the model in torch which of its modules are linears: only those can be stored as codes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from transformers import AutoModel, AutoModelForCausalLM

from castline.errors import TargetError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.readers.tensors import named
from castline.exporters.torch_model import empty_model

_WEIGHT = ".weight"
_LISTED = 4  # names that an error spells out before it only counts


@dataclass(frozen=True)
class LinearModules:
    """The linears of a model in torch."""

    paths: tuple[str, ...]
    """Such as "model.layers.0.mlp.up_proj" and "lm_head", in the model's order."""
    derived: frozenset[str] = frozenset()
    """Paths of those of a class of their own, such as FalconLinear, which multiplies itself."""

    @staticmethod
    def of(checkpoint: Checkpoint, *, decodes: bool) -> LinearModules:
        """Return those of the checkpoint's model, which is built without memory for its weights."""
        builder = AutoModelForCausalLM if decodes else AutoModel
        model = empty_model(checkpoint, builder, torch.float32)
        classes = {
            path: type(module)
            for path, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        derived = (path for path, each in classes.items() if each is not torch.nn.Linear)
        return LinearModules(tuple(classes), frozenset(derived))

    def require(self, weights: Collection[str]) -> None:
        """Raise TargetError that names the weights which are of other modules."""
        known = {f"{path}{_WEIGHT}" for path in self.paths}
        others = [weight for weight in weights if weight not in known]
        if others:
            raise TargetError(
                f"{len(others)} weights belong to modules other than torch.nn.Linear, such as "
                f"GPT-2's Conv1D ({named(others, _LISTED)}), and compressed-tensors has codes for "
                "linears only. Use --target onnxruntime."
            )

    def are_derived(self, weights: Collection[str]) -> bool:
        """Return whether one of the weights is of a linear of a class of its own."""
        return any(module_of(weight) in self.derived for weight in weights)

    def others(self, weights: Collection[str]) -> tuple[str, ...]:
        """Return the paths of the linears that have none of the weights."""
        return tuple(path for path in self.paths if f"{path}{_WEIGHT}" not in weights)


def module_of(weight: str) -> str:
    """Return the path of the linear that a weight belongs to."""
    return weight.removesuffix(_WEIGHT)
