"""Divide the quantized linears of a plan into units that are quantized together or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from castline.compiler.plan.decisions import PlannedBlock, PlannedLinear, QuantPlan
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.search.planned_linears import is_quantized

By: TypeAlias = Literal["layer", "linear"]

_FLOAT_BYTES = 2  # of a weight or a scale in float16


@dataclass(frozen=True)
class Unit:
    """Linears that are quantized together or not at all."""

    name: str
    linears: tuple[str, ...]
    """Names of their weights."""
    patterns: tuple[str, ...]
    """What a recipe's `keep` lists to keep them in float."""
    bytes_saved: int
    """By storing their weights as codes and scales, not in float16."""


def units(plan: QuantPlan, shapes: Mapping[str, tuple[int, ...]], by: By) -> tuple[Unit, ...]:
    """Return the units of a plan, in the order of the model.

    By "layer", each block is one; by "linear", the linears that read one value are, such as q, k
    and v: runtimes quantize that value for all of them. `shapes` has those of the weights, [N, K]
    or [E, N, K]. What stays in float anyway is in none.
    """
    of_block = _layer if by == "layer" else _readers
    return tuple(unit for block in plan.blocks for unit in of_block(block, shapes))


def stored_bytes(shape: tuple[int, ...], scheme: WeightScheme) -> int:
    """Return how many bytes weights [..., N, K] take as codes and float16 scales.

    Zero-points take as many bits as codes do; of two levels of scales, that of groups takes a byte.
    """
    matrices, (n, k) = math.prod(shape[:-2]), shape[-2:]
    group = scheme.group_for(k)
    if scheme.two_level and isinstance(group, int):
        return matrices * (n * k // 2 + n * k // group + n * _FLOAT_BYTES)
    if isinstance(group, int):
        scales = matrices * n * k // group
    else:
        scales = matrices * (n if group == "per-channel" else 1)
    zero_bits = 0 if scheme.symmetric else scales * scheme.storage_bits
    return (matrices * n * k * scheme.storage_bits + zero_bits + 7) // 8 + scales * _FLOAT_BYTES


def _layer(block: PlannedBlock, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Unit]:
    linears = [linear for linear in block.linears if is_quantized(linear)]
    if linears:
        yield Unit(
            block.name,
            tuple(linear.name for linear in linears),
            (f"{block.name}.*",),
            sum(_saved(linear, shapes) for linear in linears),
        )


def _readers(block: PlannedBlock, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Unit]:
    site_of = {name: site.site for site in block.sites for name in site.linears}
    together: dict[str, list[PlannedLinear]] = {}
    for linear in filter(is_quantized, block.linears):
        together.setdefault(site_of.get(linear.name, linear.name), []).append(linear)
    for linears in together.values():
        names = tuple(linear.name for linear in linears)
        saved = sum(_saved(linear, shapes) for linear in linears)
        yield Unit(_common_name(names), names, names, saved)


def _saved(linear: PlannedLinear, shapes: Mapping[str, tuple[int, ...]]) -> int:
    shape = shapes[linear.name]
    if linear.weights is None:
        return 0
    return math.prod(shape) * _FLOAT_BYTES - stored_bytes(shape, linear.weights)


def _common_name(names: tuple[str, ...]) -> str:
    """Return names with the path of the first written once: "layers.0.attn.q_proj, k_proj"."""
    first, *others = (name.removesuffix(".weight") for name in names)
    path = first.rpartition(".")[0]
    return ", ".join([first, *(name.removeprefix(f"{path}.") for name in others)])
