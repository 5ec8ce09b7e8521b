"""Bind a decoder graph's weights to a checkpoint, each read only when it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from castline.errors import CheckpointError
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.skeleton import Skeleton

_LISTED = 12  # names of one sort that an error spells out before it only counts
_FLOAT16_MAX = 65504.0


def bind(
    model: ir.Model, skeleton: Skeleton, checkpoint: Checkpoint, ignored: tuple[str, ...] = ()
) -> None:
    """Turn the graph's weight inputs into initializers that promise the checkpoint's tensors.

    A weight that is only ever transposed ([N, K] for a linear) is promised as [K, N] and the
    Transpose goes; one that is also read as it is (a tied embedding) keeps its node, and is stored
    once. Raises one CheckpointError for all missing, surplus and misshapen tensors.
    """
    weights = {str(value.name): value for value in model.graph.inputs if not _is_interface(value)}
    stored = _stored_names(weights, skeleton, checkpoint.tensors)
    _require_match(weights, stored, skeleton, checkpoint, ignored)
    for name, value in weights.items():
        model.graph.inputs.remove(value)
        value.name = stored[name]
        _promise(model.graph, value, checkpoint)


def _is_interface(value: ir.Value) -> bool:
    name = str(value.name)
    plain = ("input_ids", "attention_mask", "position_ids")
    return name in plain or name.startswith("past_key_values.")


def _stored_names(
    weights: Iterable[str], skeleton: Skeleton, present: Iterable[str]
) -> dict[str, str]:
    """Return where each graph weight is stored: under its own name or that of one it is tied to."""
    present = set(present)
    stored = {}
    for name in weights:
        first = skeleton.aliases.get(name, name)
        tied = [first, *(alias for alias, of in skeleton.aliases.items() if of == first)]
        stored[name] = next((candidate for candidate in tied if candidate in present), first)
    return stored


def _require_match(
    weights: Mapping[str, ir.Value],
    stored: Mapping[str, str],
    skeleton: Skeleton,
    checkpoint: Checkpoint,
    ignored: tuple[str, ...],
) -> None:
    tensors = checkpoint.tensors
    known = {*skeleton.shapes, *skeleton.aliases, *stored.values()}
    missing = sorted(s for s in stored.values() if s not in tensors)
    surplus = sorted(t for t in tensors if t not in known and not t.endswith(ignored or ("\0",)))
    misshapen = []
    for name, value in weights.items():
        expected = tuple(value.shape.numpy()) if value.shape is not None else ()
        found = tensors.get(stored[name])
        if found is not None and found.shape != expected:
            misshapen.append(
                f"{stored[name]} is {list(found.shape)}, config.json makes it {list(expected)}"
            )
    if not (missing or surplus or misshapen):
        return
    parts = [
        f"{len(found)} {sort}: {_listed(found)}"
        for sort, found in (("missing", missing), ("surplus", surplus), ("misshapen", misshapen))
        if found
    ]
    raise CheckpointError(
        f"{checkpoint.source}: the tensors do not fit the model that config.json describes "
        f"({type(checkpoint.config).__name__}). " + "; ".join(parts) + ". "
        "Check that config.json belongs to these weights and that every shard is there."
    )


def _listed(found: list[str]) -> str:
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more


def _promise(graph: ir.Graph, value: ir.Value, checkpoint: Checkpoint) -> None:
    uses = [node for node in value.consumers()]
    permutations = {
        tuple(node.attributes.get_ints("perm", ())) if node.op_type == "Transpose" else None
        for node in uses
    }
    axes: tuple[int, ...] | None = None
    if len(permutations) == 1 and (only := permutations.pop()) is not None:
        axes = only
    shape = checkpoint.tensors[str(value.name)].shape
    if axes is not None:
        for node in uses:
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)
        shape = tuple(shape[axis] for axis in axes)
    value.shape = ir.Shape(shape)
    value.const_value = promised(str(value.name), checkpoint, value.dtype, axes)
    graph.initializers.add(value)


def promised(
    name: str,
    checkpoint: Checkpoint,
    dtype: ir.DataType | None,
    axes: tuple[int, ...] | None = None,
) -> ir.LazyTensor:
    """Return a tensor that reads, transposes and casts a checkpoint's tensor when asked for it."""
    target = dtype or ir.DataType.FLOAT
    shape = checkpoint.tensors[name].shape
    if axes is not None:
        shape = tuple(shape[axis] for axis in axes)

    def read() -> ir.Tensor:
        array = checkpoint.read(name)
        if axes is not None:
            array = array.transpose(axes)
        return ir.Tensor(_cast(array, target, name), dtype=target, name=name)

    return ir.LazyTensor(read, dtype=target, shape=ir.Shape(shape), name=name)


def _cast(array: np.ndarray, dtype: ir.DataType, name: str) -> np.ndarray:
    wanted = dtype.numpy()
    if array.dtype == wanted:
        return np.ascontiguousarray(array)
    if dtype == ir.DataType.FLOAT16:
        peak = float(np.abs(array).max(initial=0).astype(np.float32))
        if peak > _FLOAT16_MAX:
            raise CheckpointError(
                f"{name}: holds {peak:.4g}, beyond float16's largest number, {_FLOAT16_MAX:.0f}. "
                "Export it as bfloat16 or float32 (--dtype)."
            )
    return np.ascontiguousarray(array, dtype=wanted)
