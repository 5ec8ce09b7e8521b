"""Show the original to Polygraphy with the inputs and outputs that our graphs have."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
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
    POSITION_IDS,
    SLOTS,
    past_name,
    present_name,
)

Array: TypeAlias = NDArray[np.generic]
Feed: TypeAlias = Mapping[str, Array]


class OriginalRunner(BaseRunner):  # type: ignore[misc]  # Polygraphy has no types
    """A Polygraphy runner of the original for feeds like `feed`: its inputs, of any shape."""

    def __init__(self, original: OriginalModel, feed: Feed) -> None:
        super().__init__(name="original")
        self._model = original.model
        self._feed = feed

    def get_input_metadata_impl(self) -> TensorMetadata:
        metadata = TensorMetadata()
        for name, array in self._feed.items():
            metadata.add(name, dtype=DataType.from_dtype(array.dtype), shape=[None] * array.ndim)
        return metadata

    def infer_impl(self, feed_dict: Feed) -> OrderedDict[str, Array]:
        start = time.perf_counter()
        inputs = {name: torch.from_numpy(array) for name, array in feed_dict.items()}
        layers = sum(name.startswith("past_key_values.") for name in feed_dict) // len(SLOTS)
        cache = DynamicCache()
        for layer in range(layers):
            key, value = (inputs[past_name(layer, slot)] for slot in SLOTS)
            cache.update(key.to(self._model.dtype), value.to(self._model.dtype), layer)
        with torch.inference_mode():
            output = self._model(
                input_ids=inputs[INPUT_IDS],
                attention_mask=inputs[ATTENTION_MASK],
                position_ids=inputs[POSITION_IDS],
                past_key_values=cache,
                use_cache=True,
            )
        outputs = OrderedDict({LOGITS: output.logits.float().numpy()})
        for layer, kept in enumerate(output.past_key_values.layers):
            outputs[present_name(layer, "key")] = kept.keys.float().numpy()
            outputs[present_name(layer, "value")] = kept.values.float().numpy()
        self.inference_time = time.perf_counter() - start
        return outputs


def empty_past(original: OriginalModel, batch: int) -> dict[str, Array]:
    """Return the cache inputs before the first token, as the original shapes its cache."""
    with torch.inference_mode():
        one = original.model(input_ids=torch.zeros((1, 1), dtype=torch.long), use_cache=True)
    return {
        past_name(layer, slot): np.zeros((batch, like.shape[1], 0, like.shape[3]), np.float32)
        for layer, kept in enumerate(one.past_key_values.layers)
        for slot, like in zip(SLOTS, (kept.keys, kept.values), strict=True)
    }
