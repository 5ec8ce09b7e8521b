"""Measure torch as `token_speed.py` measures engines: MODEL TASK, on a GPU in float16.

Two ways, both with torch's scaled dot product attention and greedy tokens chosen on the GPU:
eager, with transformers' DynamicCache, which grows; and compiled, with its StaticCache of fixed
capacity, each decoding step a replayed CUDA graph (torch.compile, mode="reduce-overhead"), as
transformers' own `generate` does when it is given such a cache. Prefill is eager in both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from token_speed import gpu_memory, measure, read_task
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, StaticCache

from castline.compiler.targets.generation import Tokens


class TorchRunner:
    """A causal language model of transformers, and one cache that all its answers use in turn."""

    def __init__(self, model: PreTrainedModel, capacity: int | None, *, compiled: bool) -> None:
        """Hold `model`; `capacity` is that of a static cache, None is for one that grows.

        A step of one token is compiled if asked for, which needs a cache that does not grow.
        """
        assert capacity is not None or not compiled, "the caller gives compiled steps a capacity"
        self.model = model
        self.static = None if capacity is None else StaticCache(model.config, capacity)
        self.one_token: Callable[..., Any] = (
            torch.compile(model.__call__, mode="reduce-overhead", fullgraph=True)
            if compiled
            else model
        )

    def begin(self, batch: int, capacity: int) -> TorchDecoding:  # noqa: ARG002
        """Begin one sequence; the last one ends if the cache is static."""
        assert batch == 1, "the benchmark has batches of one"
        if self.static is None:
            return TorchDecoding(self, DynamicCache(config=self.model.config))
        self.static.reset()
        return TorchDecoding(self, self.static)

    def generate(self, input_ids: Tokens, *, max_new_tokens: int) -> Iterator[int]:
        """Yield the likeliest tokens behind the prompt `input_ids` [1, S], one by one."""
        decoding = self.begin(1, input_ids.shape[1] + max_new_tokens)
        new = decoding.on_device(input_ids)
        for _ in range(max_new_tokens):
            # The token stays on the GPU as the next input; the host gets a copy, and waits for it.
            new = decoding.logits(new)[:, -1].argmax(-1, keepdim=True)
            yield int(new)


class TorchDecoding:
    """A sequence being decoded."""

    def __init__(self, runner: TorchRunner, cache: DynamicCache | StaticCache) -> None:
        self._runner, self._cache = runner, cache

    def step(
        self,
        input_ids: Tokens,
        attention_mask: Tokens | None = None,
    ) -> NDArray[np.float32]:
        """Return the logits [1, 1, V] behind the next tokens `input_ids` [1, S]."""
        assert attention_mask is None, "the benchmark pads nothing"
        logits = self.logits(self.on_device(input_ids)).float().cpu().numpy()
        return cast("NDArray[np.float32]", logits)

    def logits(self, new: Tensor) -> Tensor:
        """Return the same on the device, for tokens there."""
        run = self._runner.one_token if new.shape[1] == 1 else self._runner.model
        with torch.no_grad():
            found = run(
                input_ids=new, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
        return cast("Tensor", found.logits)

    def on_device(self, input_ids: Tokens) -> Tensor:
        return torch.from_numpy(input_ids).to(self._runner.model.device)


def load(folder: Path, device: str, capacity: int | None, *, compiled: bool) -> TorchRunner:
    """Load a checkpoint in float16, or in float32 on the processor, which is slow in float16."""
    dtype = torch.float32 if device == "cpu" else torch.float16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return TorchRunner(model.eval().to(device), capacity, compiled=compiled)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("task", type=Path, help="what to answer, as JSON: see token_speed.Task")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--static", type=int, metavar="TOKENS", help="a static cache, compiled")
    options = parser.parse_args()
    held = gpu_memory() if options.device == "cuda" else None
    compiled = options.static is not None
    opened = partial(load, options.model, options.device, options.static, compiled=compiled)
    print(json.dumps(measure(opened, read_task(options.task), held)))


if __name__ == "__main__":
    main()
