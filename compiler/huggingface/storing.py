"""Choose how the linears of a model are stored, so that transformers and vLLM load all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from castline.compiler.huggingface.modules import module_of
from castline.compiler.huggingface.packed_linear import PackedLinear
from castline.compiler.quant.scheme import GroupSize, WeightScheme
from castline.errors import TargetError
from castline.exporters.readers.packed_words import word_count
from castline.exporters.readers.tensors import TensorSpec, named

_LISTED = 4  # names that an error spells out before it only counts
_WAY_OUT = "keep those linears in float with keep, or use --target onnxruntime"


def stored_linears(
    schemes: Mapping[str, WeightScheme],
    tensors: Mapping[str, TensorSpec],
    scale_type: np.dtype[Any],
    *,
    one_way: bool = False,
    exact: bool = False,
) -> dict[str, PackedLinear]:
    """Return {weight: how it is stored} for weights [N, K] by how they are quantized.

    With `one_way` all are stored in the same way: each has the smallest group of any, its scales
    repeated. `exact` says that no scale may be rounded. Raises TargetError where there is no one
    way, and for rows of codes that end within a word, whose length nothing tells.
    """
    linears = {
        name: replace(_linear(name, tensors[name], scheme, scale_type), exact=exact)
        for name, scheme in schemes.items()
    }
    _require_whole_words(linears)
    ways = {(one.bits, one.symmetric) for one in linears.values()}
    groups = {one.group for one in linears.values()}
    if not one_way or not linears or len(ways) == len(groups) == 1:
        return linears
    sizes = [group for group in groups if isinstance(group, int)]
    if len(ways) > 1 or len(sizes) < len(groups):
        raise TargetError(_several_ways(groups))
    return {name: replace(one, group=min(sizes)) for name, one in linears.items()}


def _linear(
    name: str, spec: TensorSpec, scheme: WeightScheme, scale_type: np.dtype[Any]
) -> PackedLinear:
    n, k = spec.shape
    return PackedLinear(
        module_of(name),
        n,
        k,
        scheme.storage_bits,
        scheme.group_for(k),
        scheme.symmetric,
        scale_type,
    )


def _require_whole_words(linears: Mapping[str, PackedLinear]) -> None:
    ragged = {
        name: one.k
        for name, one in linears.items()
        if word_count(one.k, one.bits, straddled=False) * 32 != one.k * one.bits
    }
    if ragged:
        sizes = ", ".join(f"K = {k}" for k in sorted(set(ragged.values())))
        raise TargetError(
            f"target huggingface: {named(ragged, _LISTED)}: {sizes} codes of a row do not fill "
            f"words of 32 bits. Use 8 bits where that helps, {_WAY_OUT}."
        )


def _several_ways(groups: Iterable[GroupSize]) -> str:
    found = sorted(str(group) for group in groups)
    return (
        "target huggingface: the linears are stored in several ways (groups: "
        f"{', '.join(found)}), and transformers dequantizes linears of one way only. It has to "
        "where there are zero-points, or a class of linears of the model's own. Set "
        f"weights.symmetric=true if that helps, {_WAY_OUT}."
    )
