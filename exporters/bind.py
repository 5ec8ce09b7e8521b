"""Bind a graph's weights to a checkpoint, each read only when it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from castline.errors import CheckpointError
from castline.exporters import names
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.promise import PromisedWeight
from castline.exporters.readers.tensors import named

if TYPE_CHECKING:
    from castline.exporters.skeleton import Skeleton

_LISTED = 12  # names of one sort that an error spells out before it only counts


def bind(model: ir.Model, skeleton: Skeleton, checkpoint: Checkpoint) -> None:
    """Turn the graph's weight inputs into initializers that promise the checkpoint's tensors.

    A weight that is only ever transposed ([N, K] for a linear) is promised as [K, N] and the
    Transpose goes; one that is also read as it is (a tied embedding) keeps its node, and is stored
    once. Raises one CheckpointError for all missing, surplus and misshapen tensors.
    """
    inputs = {str(value.name): value for value in model.graph.inputs}
    weights = {name: value for name, value in inputs.items() if not names.is_input(name)}
    stored = _stored_names(weights, skeleton, checkpoint.tensors)
    _require_match(weights, stored, skeleton, checkpoint)
    for name, value in weights.items():
        model.graph.inputs.remove(value)
        value.name = stored[name]
        _promise(model.graph, value, checkpoint)


def _stored_names(
    weights: Iterable[str], skeleton: Skeleton, present: Iterable[str]
) -> dict[str, str]:
    """Return where each graph weight is stored: under its own name or that of one it is tied to."""
    present = set(present)
    stored = {}
    for name in weights:
        first = skeleton.aliases.get(name, name)
        tied = (first, *(alias for alias, of in skeleton.aliases.items() if of == first))
        stored[name] = next((candidate for candidate in tied if candidate in present), first)
    return stored


def _require_match(
    weights: Mapping[str, ir.Value],
    stored: Mapping[str, str],
    skeleton: Skeleton,
    checkpoint: Checkpoint,
) -> None:
    tensors = checkpoint.tensors
    known = {*skeleton.named_shapes, *stored.values()}
    expected = {stored[name]: _fixed_shape(value) for name, value in weights.items()}
    wrong = {
        "missing": sorted(name for name in expected if name not in tensors),
        "surplus": sorted(name for name in tensors if name not in known),
        "misshapen": sorted(
            f"{name} is {list(tensors[name].shape)}, config.json makes it {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ),
    }
    parts = [
        f"{len(found)} {sort}: {named(found, _LISTED)}" for sort, found in wrong.items() if found
    ]
    if not parts:
        return
    raise CheckpointError(
        f"{checkpoint.source}: the tensors do not fit the model that config.json describes "
        f"({type(checkpoint.config).__name__}). " + "; ".join(parts) + ". "
        "Check that config.json belongs to these weights and that every shard is there."
    )


def _fixed_shape(weight: ir.Value) -> tuple[int, ...]:
    assert weight.shape is not None, f"trace left the weight {weight.name} without a shape"
    return tuple(weight.shape.numpy())


def _promise(graph: ir.Graph, value: ir.Value, checkpoint: Checkpoint) -> None:
    assert value.dtype is not None, f"trace left the weight {value.name} without a type"
    axes = _only_permutation(value)
    if axes is not None:
        for node in list(value.consumers()):
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)
    tensor = PromisedWeight(checkpoint, str(value.name), value.dtype, axes)
    value.shape, value.const_value = tensor.shape, tensor
    graph.initializers.add(value)


def _only_permutation(value: ir.Value) -> tuple[int, ...] | None:
    """Return the axes by which every reader of a value transposes it; None where one does not."""
    permutations = {
        tuple(node.attributes.get_ints("perm", ())) if node.op_type == "Transpose" else None
        for node in value.consumers()
    }
    return permutations.pop() if len(permutations) == 1 else None
