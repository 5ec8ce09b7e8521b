"""Tell apart what a model has no place for: derived tensors, heads, and what is amiss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING

from castline.exporters.readers.tensors import TensorSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from castline.exporters.checkpoint import Checkpoint


def not_derived(
    model: PreTrainedModel, surplus: Mapping[str, str], specs: Mapping[str, TensorSpec]
) -> dict[str, str]:
    """Return the entries of `surplus` that do not follow from the model's configuration.

    `surplus` is stored name -> the name that transformers gives it. Derived are rotary frequencies,
    position ids, causal masks, and what the model's class says may be ignored.
    """
    report = SimpleNamespace(missing_keys=set(), unexpected_keys=set(surplus.values()))
    model._adjust_missing_and_unexpected_keys(report)
    return {
        stored: name
        for stored, name in surplus.items()
        if name in report.unexpected_keys and not _is_causal_mask(stored, specs[stored].shape)
    }


def of_heads(model: PreTrainedModel, surplus: Mapping[str, str]) -> tuple[str, ...]:
    """Return the stored names of heads: what lies beside the parts that a base model has.

    "cls.predictions.bias" and "bert.pooler.dense.weight" do for a BERT without pooler;
    "bert.encoder.layer.12.output.dense.bias" lies within a part, so should not be there. Nothing is
    a head for a model that has one itself.
    """
    if model.base_model is not model:
        return ()
    parts = {name for name, _ in model.named_children()}
    prefix = f"{model.base_model_prefix}."
    return tuple(
        stored
        for stored, name in surplus.items()
        if name.removeprefix(prefix).partition(".")[0] not in parts
    )


def zero_biases(checkpoint: Checkpoint, surplus: Iterable[str]) -> set[str]:
    """Return the biases of quantized linears that are zero throughout, and so add nothing.

    Tools for GPTQ store one for every linear, whether its model has biases or not. Only these
    tensors are read.
    """
    return {
        stored
        for stored in surplus
        if stored.endswith(".bias")
        and f"{stored.removesuffix('.bias')}.weight" in checkpoint.quantized
        and not checkpoint.read(stored).any()
    }


def _is_causal_mask(stored: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor says which tokens see which, as old releases of GPT models stored it.

    That is `bias` [1, 1, n, n], and `masked_bias`, the number that hides a token; transformers has
    forgotten them for most of its classes.
    """
    if stored.endswith(".masked_bias"):
        return shape in ((), (1,))
    return stored.endswith(".bias") and len(shape) == 4 and shape == (1, 1, shape[-1], shape[-1])
