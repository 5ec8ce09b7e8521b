"""Show the original to Polygraphy with the inputs and outputs that our graphs have."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.datatype import DataType
from transformers import DynamicCache

from castline.compiler.check.original import OriginalModel
from castline.exporters.names import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    PAST_PREFIX,
    SLOTS,
    past_name,
    present_name,
)
from castline.exporters.torch_model import token_inputs

Array: TypeAlias = NDArray[np.generic]
Feed: TypeAlias = Mapping[str, Array]
Run: TypeAlias = Callable[[Feed], Mapping[str, Array]]


class OriginalRunner(BaseRunner):  # type: ignore[misc]  # Polygraphy has no types
    """A Polygraphy runner of an original for feeds like `feed`: its inputs, of any shape."""

    def __init__(self, run: Run, feed: Feed, name: str = "original") -> None:
        super().__init__(name=name)
        self._run = run
        self._feed = feed

    def get_input_metadata_impl(self) -> TensorMetadata:
        metadata = TensorMetadata()
        for name, array in self._feed.items():
            metadata.add(name, dtype=DataType.from_dtype(array.dtype), shape=[None] * array.ndim)
        return metadata

    def infer_impl(self, feed_dict: Feed) -> OrderedDict[str, Array]:
        start = time.perf_counter()
        outputs = self._run(feed_dict)
        self.inference_time = time.perf_counter() - start
        return OrderedDict(outputs)


def decoder_run(original: OriginalModel) -> Run:
    """Return a function that runs a decoder from the past that its feed has, and gives the next."""
    model = original.model

    def run(feed: Feed) -> Mapping[str, Array]:
        inputs = {name: torch.from_numpy(array) for name, array in feed.items()}
        layers = sum(name.startswith(PAST_PREFIX) for name in feed) // len(SLOTS)
        cache = DynamicCache()
        for layer in range(layers):
            key, value = (inputs[past_name(layer, slot)] for slot in SLOTS)
            cache.update(key.to(model.dtype), value.to(model.dtype), layer)
        with torch.inference_mode():
            output = model(
                **token_inputs(model, inputs[INPUT_IDS], inputs[ATTENTION_MASK]),
                past_key_values=cache,
                use_cache=True,
            )
        outputs = {LOGITS: output.logits.float().numpy()}
        for layer, kept in enumerate(output.past_key_values.layers):
            outputs[present_name(layer, "key")] = kept.keys.float().numpy()
            outputs[present_name(layer, "value")] = kept.values.float().numpy()
        return outputs

    return run


def empty_past(original: OriginalModel, batch: int) -> dict[str, Array]:
    """Return the cache inputs before the first token, as the original shapes its cache."""
    with torch.inference_mode():
        one = original.model(input_ids=torch.zeros((1, 1), dtype=torch.long), use_cache=True)
    return {
        past_name(layer, slot): np.zeros((batch, like.shape[1], 0, like.shape[3]), np.float32)
        for layer, kept in enumerate(one.past_key_values.layers)
        for slot, like in zip(SLOTS, (kept.keys, kept.values), strict=True)
    }
