from __future__ import annotations

import numpy as np
import torch

from castline.compiler.graph.folds.site import Consumer, Edit, Site
from castline.compiler.search.folding import fold


def test_what_makes_a_value_is_divided_and_what_reads_it_multiplied() -> None:
    index = np.array([0, 1, 0])
    gain, weight = torch.tensor([2.0, 3.0, 4.0]), torch.ones(2, 3)
    edits = (Edit("gain", (0,), index, multiply=False), Edit("weight", (1,), index, multiply=True))
    site = Site("/x", "gain", "norm gain", (Consumer("weight", "n", index),), edits, 2, None)
    fold(site, np.array([2.0, 0.5]), {"gain": gain, "weight": weight})
    assert gain.tolist() == [1.0, 6.0, 2.0]
    assert weight.tolist() == [[2.0, 0.5, 2.0]] * 2


def test_a_gain_that_the_model_adds_one_to_is_folded_with_it() -> None:
    gain = torch.tensor([0.5, -0.5])
    edits = (Edit("gain", (0,), np.array([0, 1]), multiply=False, offset=1.0),)
    fold(
        Site("/x", "gain", "norm gain (1 + w)", (), edits, 2, None),
        np.array([2.0, 0.5]),
        {"gain": gain},
    )
    assert gain.tolist() == [-0.25, 0.0]
