"""The list of layers is found by its length, and a model without one such list is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from castline.errors import UnsupportedArchitectureError
from castline.exporters.layer_stack import layer_stack


class Model(torch.nn.Module):
    """A model with lists of modules of given lengths."""

    def __init__(self, **lengths: int) -> None:
        super().__init__()
        for name, length in lengths.items():
            self.add_module(name, torch.nn.ModuleList(torch.nn.Identity() for _ in range(length)))


CONFIG = LlamaConfig(num_hidden_layers=3)


def test_the_one_list_of_that_length_is_found() -> None:
    inner = Model(layers=3, experts=4)
    outer = torch.nn.Module()
    outer.add_module("model", inner)
    path, layers = layer_stack(outer, CONFIG)
    assert path == "model.layers"
    assert layers is inner.layers


@pytest.mark.parametrize("lengths", [{"layers": 2}, {"layers": 3, "others": 3}, {}])
def test_none_or_two_are_refused_with_what_was_expected(lengths: dict[str, int]) -> None:
    found = sum(length == 3 for length in lengths.values())
    expected = rf"Model: expected one list of 3 layers \(.*num_hidden_layers\), found {found}"
    with pytest.raises(UnsupportedArchitectureError, match=expected):
        layer_stack(Model(**lengths), CONFIG)


def test_every_architecture_has_one(architecture: Any) -> None:
    path, layers = layer_stack(architecture.model, architecture.config)
    assert len(layers) == architecture.config.num_hidden_layers
    assert architecture.model.get_submodule(path) is layers
