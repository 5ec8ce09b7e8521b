"""Follow which entry of a scale every element of a value carries, and which entries are refused."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.parameters import Parameter, StoredMatrix
from castline.compiler.graph.folds.wording import path
from castline.compiler.quant.arrays import Array


@dataclass(frozen=True, eq=False)
class Met:
    """A parameter that scaled elements meet, with the label that each of its entries meets."""

    parameter: Parameter
    axes: tuple[int, ...]
    """Axes of the shown parameter that `labels` has."""
    labels: Array
    matrix: StoredMatrix | None = None
    """The linear whose weight it is; None for a bias."""


@dataclass
class Labels:
    """The scale entries of one source as they spread through the graph: 1 to `count`; 0 is none.

    An entry that cannot be compensated somewhere is refused: nothing is ever divided by it. Where
    its elements go is followed still while they keep their places, as a naive fold assumes.
    """

    count: int
    of: dict[ir.Value, Array] = field(default_factory=dict)
    """int [shape of the value]: which entry divides each element."""
    linears: list[Met] = field(default_factory=list)
    """The linears that read scaled values, in graph order."""
    biases: list[Met] = field(default_factory=list)
    """What is added on the way, to be divided with what it is added to."""
    reasons: list[str] = field(default_factory=list)
    assumed: dict[str, Array] = field(default_factory=dict)
    """Name of a present cache -> the labels that were assumed for the past one."""

    def __post_init__(self) -> None:
        self._refused = np.full(self.count + 1, -1, np.int32)  # position in `reasons`
        self._alive = np.arange(self.count + 1) > 0
        self._passed: dict[str, Array] = {}

    def alive(self, labels: Array) -> Array:
        """Return where `labels` are entries that nothing has refused yet."""
        found: Array = self._alive[labels]
        return found

    def refuse(self, labels: Array, reason: str) -> None:
        """Refuse the entries in `labels`; an earlier reason stays."""
        entries = np.zeros(self.count + 1, bool)
        entries[labels] = True
        entries &= self._alive
        if entries.any():
            self._alive[entries] = False
            self._refused[entries] = len(self.reasons)
            self.reasons.append(reason)

    def reason(self, labels: Array) -> str | None:
        """Return the first reason for which any of `labels` was refused; None if none was."""
        refused = self._refused[labels]
        refused = refused[refused >= 0]
        return self.reasons[refused.min()] if refused.size else None

    def note(self, labels: Array, way: str) -> None:
        """Keep in mind that the entries in `labels` pass something worth a word."""
        self._passed.setdefault(way, np.zeros(self.count + 1, bool))[labels] = True

    def ways(self, entries: Array) -> tuple[str, ...]:
        """Return what the given entries pass, in order; `entries` is bool [count + 1]."""
        return tuple(way for way, passed in self._passed.items() if (passed & entries).any())

    def meet(self, shape: tuple[int, ...], labels: Array, reason: str) -> Array:
        """Return the label that each element of a tensor of `shape` meets when it broadcasts.

        Elements that meet several are refused for `reason`.
        """
        common = np.broadcast_shapes(shape, labels.shape)
        labels = np.broadcast_to(labels, common)
        kept = (1,) * (len(common) - len(shape)) + shape
        first = labels[tuple(slice(0, 1) if size == 1 else slice(None) for size in kept)]
        differ = labels != first
        if differ.any():
            over = tuple(axis for axis, size in enumerate(kept) if size == 1)
            several = differ.any(axis=over, keepdims=True)
            self.refuse(labels[np.broadcast_to(several, common)], reason)
        return first.reshape(shape).copy()  # a view would keep the labels of every token


def end(node: ir.Node, labels: Labels, reason: str = "") -> list[Array]:
    """Refuse every entry that `node` reads; return that none of its outputs has labels."""
    for value in node.inputs:
        if value in labels.of:
            labels.refuse(labels.of[value], reason or f"{path(node)} reads it")
    return []
