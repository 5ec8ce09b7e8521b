"""Round tensors in torch to the values that the codes of a stored model will stand for."""

from __future__ import annotations

import torch

from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.search.fake_grids import (
    FakeGrid,
    Tensor,
    activation_grid,
    channel_unit,
    ends,
    static_grid,
    weight_grid,
)
from castline.compiler.search.fake_ranges import weight_range


def fake_quantized_weights(weight: Tensor, scheme: WeightScheme) -> Tensor:
    """Return what the codes of `weight` [N, K] or [E, N, K] stand for, with scales of float32.

    The numbers are those of `dequantize(quantize(weight.T, scheme)).T`; of a stack, each matrix is
    quantized alone. The result has the type of the weight, which itself stays as it is.
    """
    if weight.ndim == 3:
        return torch.stack([fake_quantized_weights(matrix, scheme) for matrix in weight])
    n, k = weight.shape
    group = scheme.group_for(k)
    if isinstance(group, str):
        group = k if group == "per-channel" else n * k
    rows = weight.detach().reshape(-1, group).float()
    unit = None
    if scheme.in_two_levels(k):
        unit = channel_unit(rows.reshape(n, -1, group), scheme)
        unit = unit if unit is None else unit.reshape(-1, 1)
    grid = weight_grid(*weight_range(rows, scheme, unit), scheme, unit)
    return grid.rounded(rows).view(weight.shape).to(weight.dtype)


def fake_quantized_activations(
    x: Tensor, scheme: ActivationScheme, parameters: QuantParameters | None = None
) -> Tensor:
    """Return what the codes of `x` [..., K] stand for, in the type of `x`, which stays as it is.

    `parameters` are those of a static scheme, None for a dynamic one. The numbers are those of
    `dequantize_activations(quantize_activations(x, scheme, parameters))`.
    """
    assert (parameters is None) == scheme.dynamic, "static schemes have parameters, others do not"
    values = x.detach().float()
    if parameters is None:
        grid = _dynamic_grid(values, scheme)
    else:
        grid = static_grid(parameters, scheme, x.device)
    return grid.rounded(values).to(x.dtype)


def _dynamic_grid(values: Tensor, scheme: ActivationScheme) -> FakeGrid:
    if scheme.granularity == "per-token":
        low, high = ends(values)
    else:
        low, high = torch.aminmax(values)
    return activation_grid(low, high, scheme)
