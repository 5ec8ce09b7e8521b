"""Find, for every linear, where a scale of its input channels may be folded: the fold planner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.labels import Labels, Met
from castline.compiler.graph.folds.parameters import StoredMatrix, stored_matrix
from castline.compiler.graph.folds.site import Consumer, Edit, FoldPlan, Site
from castline.compiler.graph.folds.sources import Source, source
from castline.compiler.graph.folds.spread import Spread
from castline.compiler.graph.folds.wording import unabsorbed
from castline.compiler.quant.arrays import Array

_RESHAPES = ("Reshape", "Unsqueeze", "Squeeze", "Cast", "Identity", "Expand", "Flatten")


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A source with the linears that share some of its scale entries."""

    source: Source
    labels: Labels
    linears: tuple[Met, ...]
    entries: Array
    """bool [count + 1]: the entries that these linears take up."""
    reason: str | None


def fold_sites(model: ir.Model) -> FoldPlan:
    """Return every site of a float graph whose nodes are sorted, foldable or declined.

    A site is foldable by proof: each entry of the scale is followed from what is divided, element
    by element, through every node that reads it, and each of its ways ends in a linear that
    multiplies by it. Where attention's values are scaled, their cache is: it is put out scaled and
    read back so. Nothing goes by the names of parameters or by the architecture.
    """
    found = (stored_matrix(node) for node in model.graph)
    matrices = {matrix.node: matrix for matrix in found if matrix is not None}
    return _plan(matrices, _best_candidates(model.graph, matrices))


def _best_candidates(
    graph: ir.Graph, matrices: Mapping[ir.Node, StoredMatrix]
) -> dict[ir.Node, _Candidate]:
    """Return for each linear that a source reaches what its site is made of."""
    spread = Spread(graph, matrices)
    best: dict[ir.Node, _Candidate] = {}
    for node in graph:
        found = source(node)
        labels = None if found is None else spread.of(found)
        if found is None or labels is None:
            continue
        for candidate in _candidates(found, labels):
            for met in candidate.linears:
                reader = _matrix(met).node
                if reader not in best or _is_better(candidate, best[reader]):
                    best[reader] = candidate
    return best


def _candidates(found: Source, labels: Labels) -> Iterator[_Candidate]:
    """Yield the linears that a source reaches, together where they share an entry."""
    groups: list[tuple[Array, list[Met]]] = []
    for met in labels.linears:
        entries = np.zeros(labels.count + 1, bool)
        entries[met.labels] = True
        entries[0] = False
        members = [met]
        for group in [group for group in groups if (group[0] & entries).any()]:
            groups.remove(group)
            entries |= group[0]
            members = group[1] + members
        groups.append((entries, members))
    for entries, members in groups:
        reason = labels.reason(np.flatnonzero(entries))
        yield _Candidate(found, labels, tuple(members), entries, reason)


def _is_better(candidate: _Candidate, than: _Candidate) -> bool:
    """Prefer what is foldable; then what is nearer, which comes later."""
    return candidate.reason is None or than.reason is not None


def _plan(matrices: Mapping[ir.Node, StoredMatrix], best: Mapping[ir.Node, _Candidate]) -> FoldPlan:
    readers: dict[_Candidate | ir.Value, list[StoredMatrix]] = {}
    for node, matrix in matrices.items():
        readers.setdefault(best.get(node) or _value(node), []).append(matrix)
    sites, site_of = [], {}
    for key, members in readers.items():
        site = _site(key) if isinstance(key, _Candidate) else _sourceless(key, members)
        sites.append(site)
        site_of.update({str(matrix.node.name): site for matrix in members})
    return FoldPlan(tuple(sites), site_of)


def _site(candidate: _Candidate) -> Site:
    used = np.flatnonzero(candidate.entries)
    entry = np.full(candidate.labels.count + 1, -1, np.int32)
    entry[used] = np.arange(len(used), dtype=np.int32)
    ways = candidate.labels.ways(candidate.entries)
    return Site(
        value=str(_value(_matrix(candidate.linears[0]).node).name),
        producer=candidate.source.parameters[0][0].name,
        kind=" through ".join((candidate.source.kind, *ways)),
        consumers=tuple(_consumer(met, entry[met.labels]) for met in candidate.linears),
        edits=tuple(_edits(candidate, entry)),
        scales=len(used),
        reason=candidate.reason,
    )


def _edits(candidate: _Candidate, entry: Array) -> Iterator[Edit]:
    source, labels = candidate.source, candidate.labels
    for parameter, axes in source.parameters:
        index = entry[source.labels].reshape([parameter.shape[axis] for axis in axes])
        yield parameter.edit(index, axes, multiply=False)
    for met in labels.biases:
        index = entry[met.labels]
        if (index >= 0).any():
            yield met.parameter.edit(index, met.axes, multiply=False)
    for met in candidate.linears:
        yield met.parameter.edit(entry[met.labels], met.axes, multiply=True)


def _consumer(met: Met, channels: Array) -> Consumer:
    experts = channels.reshape(-1, channels.shape[-1])
    if (experts == experts[0]).all():
        channels = experts[0]
    return Consumer(met.parameter.name, str(_matrix(met).node.name), channels)


def _sourceless(value: ir.Value, matrices: list[StoredMatrix]) -> Site:
    consumers = tuple(
        Consumer(m.weight.name, str(m.node.name), np.full(m.sizes(m.k), -1)) for m in matrices
    )
    return Site(str(value.name), None, "", consumers, (), 0, unabsorbed(value))


def _value(node: ir.Node) -> ir.Value:
    """Return what a linear reads, before it was given another shape of the same last axis."""
    value = node.inputs[0]
    assert value is not None, "a linear reads a value"
    while (maker := value.producer()) is not None and maker.op_type in _RESHAPES:
        read = maker.inputs[0]
        if read is None or _width(read) is None or _width(read) != _width(value):
            break
        value = read
    return value


def _width(value: ir.Value) -> int | None:
    size = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return size if isinstance(size, int) else None


def _matrix(met: Met) -> StoredMatrix:
    assert met.matrix is not None, "a linear is met with its matrix"
    return met.matrix
