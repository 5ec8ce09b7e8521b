"""Quantize what attention reads: queries and keys after their rotation, and values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import onnx_ir as ir

from castline.compiler.passes.activation_codes import ActivationCodes
from castline.compiler.passes.node_writer import NodeWriter
from castline.compiler.quant.scheme import ActivationScheme

_PARTS = ("query", "key", "value")
_RANK = 4  # [batch, heads, tokens, head size]


@dataclass
class QuantizedAttentions:
    """What a run of the pass did, for the outcome."""

    nodes: list[str] = field(default_factory=list)
    """Names of the attention nodes that read what codes stand for."""
    left: dict[str, str] = field(default_factory=dict)
    """Names of others -> why they read float."""

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for every reason."""
        if not self.nodes and not self.left:
            return ("no attention is one operator here, so what it reads stays in float",)
        return tuple(
            f"{count} attention {'node reads' if count == 1 else 'nodes read'} float: {reason}"
            for reason, count in Counter(self.left.values()).items()
        )


@dataclass(frozen=True)
class QuantizeAttention:
    """Each token of each head has a scale of its own, taken at run time.

    New keys and values are quantized before they join the cache, so that the cache holds what the
    codes stand for, and a token is quantized once. Probabilities stay in float. Source: Liu et al.,
    QLLM, arXiv:2310.08041, section 5.1.
    """

    scheme: ActivationScheme
    """Dynamic, per token: of the last axis, which is one head's."""

    def __call__(self, model: ir.Model) -> QuantizedAttentions:
        """Rewrite `model` in place."""
        done = QuantizedAttentions()
        shared = ActivationCodes(model)
        for node in list(model.graph):
            if node.op_type != "Attention":
                continue
            readers = [_reader(node, part) for part in range(len(_PARTS))]
            reason = next(filter(None, (_declined(*reader) for reader in readers)), None)
            if reason is not None:
                done.left[str(node.name)] = reason
                continue
            for (reader, index), part in zip(readers, _PARTS, strict=True):
                self._quantize(model.graph, reader, index, f"{node.name}/{part}", shared)
            done.nodes.append(str(node.name))
        return done

    def _quantize(
        self, graph: ir.Graph, reader: ir.Node, index: int, name: str, shared: ActivationCodes
    ) -> None:
        value = reader.inputs[index]
        assert value is not None, "checked by the caller"
        assert value.dtype is not None, "checked by the caller"
        writer = NodeWriter(graph, name, reader)
        read = shared.dynamic_in_float(value, self.scheme, value.dtype, writer)
        reader.replace_input_with(index, read)


def _reader(attention: ir.Node, part: int) -> tuple[ir.Node, int]:
    """Return the node that reads new queries, keys or values first, and at which input."""
    value = attention.inputs[part]
    join = value.producer() if value is not None else None
    if part > 0 and join is not None and join.op_type == "Concat":
        return join, len(join.inputs) - 1  # the cache comes before the new tokens
    return attention, part


def _declined(reader: ir.Node, index: int) -> str | None:
    value = reader.inputs[index]
    if value is None or value.dtype is None or value.shape is None:
        return "what it reads has no type or shape"
    if len(value.shape) != _RANK:
        return f"what it reads has {len(value.shape)} axes, where heads stand apart in {_RANK}"
    return None
