"""Fold a scale into parameters in torch, as the pass does into a graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from castline.compiler.graph.folds.site import Site
from castline.compiler.quant.arrays import Array


def fold(site: Site, scale: Array, parameters: Mapping[str, torch.Tensor]) -> None:
    """Divide what makes the site's value by `scale` [scales] and multiply what reads it, in place.

    `parameters` has those that the site's edits name, as the checkpoint stores them.
    """
    for edit in site.edits:
        parameter = parameters[edit.parameter]
        folded = edit.scaling(scale, parameter.ndim).of(parameter.cpu().numpy())
        parameter.data.copy_(torch.from_numpy(folded))
