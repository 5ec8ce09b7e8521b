"""Embeddings are looked up in the checkpoint, row by row, and are in memory for logits alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.search.blocks import BlockModel
from castline.errors import CheckpointError

TOKENS = np.array([[5, 9, 5, 60], [0, 7, 99, 5]])


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "bert"])
def test_rows_are_those_of_the_table(sample: Callable[[str], Any], name: str) -> None:
    tiny = sample(name)
    model = BlockModel(tiny.checkpoint())
    found = model.entering(TOKENS, 1)
    first = next(found)
    assert all(module.weight.is_meta for module in embeddings(model))
    model.logits(torch.zeros(1, 3, first.shape[-1]))  # which brings the tables into memory
    again = next(model.entering(TOKENS, 1))
    assert first.abs().max() > 0
    assert torch.equal(first, again)


def embeddings(model: BlockModel) -> list[torch.nn.Embedding]:
    return [one for one in model.model.modules() if isinstance(one, torch.nn.Embedding)]


def test_logits_bring_the_tables_and_the_head_into_memory(sample: Callable[[str], Any]) -> None:
    model = BlockModel(sample("llama").checkpoint())
    head = model.model.get_output_embeddings()
    assert head.weight.is_meta
    model.logits(torch.zeros(1, 3, head.weight.shape[1]))
    assert not any(one.weight.is_meta for one in (head, *embeddings(model)))


def test_a_row_that_is_not_finite_is_refused_where_it_is_read(sample: Callable[[str], Any]) -> None:
    arrays = sample("llama").arrays()
    table = arrays["model.embed_tokens.weight"] = arrays["model.embed_tokens.weight"].copy()
    table[60, 3] = np.nan
    model = BlockModel(sample("llama").checkpoint(arrays))
    next(model.entering(TOKENS[1:], 1))
    refused = pytest.raises(CheckpointError, match=r"embed_tokens.weight holds 1 of 192 values")
    with refused:
        next(model.entering(TOKENS[:1], 1))
