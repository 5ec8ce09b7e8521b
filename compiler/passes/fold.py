"""Fold a scale: divide what produces a site's value, multiply what reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.site import Edit, Site
from castline.compiler.quant.arrays import Array
from castline.exporters.promise import PromisedWeight


@dataclass(frozen=True)
class Fold:
    """The value of `site` is divided by `scale`, channel by channel; the model computes the same.

    Folding s and then t is folding s * t. Values of an attention are scaled in the cache, too,
    which therefore belongs to the folded model alone.
    """

    site: Site
    scale: Array
    """[site.scales], positive and finite."""

    def __post_init__(self) -> None:
        assert self.site.foldable, f"{self.site.value} takes no scale: {self.site.reason}"
        require_scale(self.site, self.scale)

    def __call__(self, model: ir.Model) -> None:
        """Rewrite `model` in place; nothing is read before the model is written."""
        for edit in self.site.edits:
            edit_parameter(model, edit, self.scale)


def require_scale(site: Site, scale: Array) -> None:
    """Assert that `scale` is one for `site`: search promises so."""
    assert scale.shape == (site.scales,), f"{site.value}: {site.scales} scales, got {scale.shape}"
    assert np.isfinite(scale).all(), f"{site.value}: a scale is infinite or no number"
    assert (scale > 0).all(), f"{site.value}: a scale is not positive"


def edit_parameter(model: ir.Model, edit: Edit, scale: Array) -> None:
    """Scale one initializer of `model` as `edit` says, by a promise in place of its tensor."""
    value = model.graph.initializers[edit.parameter]
    tensor = value.const_value
    assert tensor is not None, "initializers have tensors"
    scaling = edit.scaling(scale, len(tensor.shape))
    if isinstance(tensor, PromisedWeight):
        value.const_value = tensor.scaled(scaling)
        return

    def scaled() -> ir.TensorProtocol:
        array = scaling.of(tensor.numpy()).astype(tensor.dtype.numpy())
        return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)

    value.const_value = ir.LazyTensor(
        scaled, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name
    )
