"""Recognize the attention of a decoder layer, from its projections to its output."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from castline.compiler.graph.cache_join import CacheJoin, cache_join

_HEADS_FIRST = (0, 2, 1, 3)  # [batch, sequence, heads, width] -> [batch, heads, sequence, width]


@dataclass(frozen=True)
class CachedAttention:
    """One Attention node with the cache, rotary positions and head layout around it."""

    node: ir.Node
    query: ir.Value
    """[batch, sequence, heads, width], before rotary positions, as are key and value."""
    key: ir.Value
    value: ir.Value
    past: tuple[ir.Value, ir.Value]
    present: tuple[ir.Value, ir.Value]
    scales: tuple[ir.Value, ir.Value] | None
    """Of keys and values, [] or [1, heads, 1, width], where past and present are INT8 codes."""
    cos: ir.Value
    """[batch, sequence, width / 2], of this step's positions."""
    sin: ir.Value
    interleaved: bool
    mask: ir.Value
    """bool [batch, 1, sequence, total], true where attention is allowed."""
    heads: int
    kv_heads: int
    width: int
    scale: float | None
    """What scores are multiplied by; None for 1 / sqrt(width)."""
    softcap: float
    output: ir.Value
    """[batch, sequence, heads * width]."""


def cached_attentions(model: ir.Model) -> tuple[tuple[CachedAttention, ...], dict[str, str]]:
    """Return every attention that is recognized, and the name of each other with the reason."""
    found, declined = [], {}
    for node in model.graph:
        if node.op_type != "Attention":
            continue
        attention = _recognize(node)
        if isinstance(attention, str):
            declined[str(node.name)] = attention
        else:
            found.append(attention)
    return tuple(found), declined


def _recognize(node: ir.Node) -> CachedAttention | str:
    query, key, value, mask = (*node.inputs, None)[:4]
    if query is None or key is None or value is None or mask is None:
        return "it has no mask"
    if mask.dtype != ir.DataType.BOOL:
        return "its mask is not boolean"
    rotary_query = _producer(query, "RotaryEmbedding")
    key_cache, value_cache = cache_join(key), cache_join(value)
    if rotary_query is None or key_cache is None or value_cache is None:
        return "query has no rotary positions or key and value no cache"
    rotary_key = _producer(key_cache.new, "RotaryEmbedding")
    if rotary_key is None or _angles(rotary_key) != _angles(rotary_query):
        return "query and key do not share their rotary positions"
    if (
        len(rotary_query.inputs) > 3
        or rotary_query.attributes.get_int("rotary_embedding_dim", 0) > 0
    ):
        return "its rotary positions are looked up, or turn a part of the width"
    heads_last = [
        _transposed(v) for v in (rotary_query.inputs[0], rotary_key.inputs[0], value_cache.new)
    ]
    output = _merged_heads(node.outputs[0])
    if None in heads_last or output is None:
        return "heads are not split and merged in the common way"
    if node.attributes.get_int("is_causal", 0):
        return "it is causal by attribute"
    if (key_cache.scale is None) != (value_cache.scale is None):
        return "one of its caches is quantized and the other is not"
    return _attention(node, rotary_query, heads_last, (key_cache, value_cache), mask, output)


def _attention(
    node: ir.Node,
    rotary: ir.Node,
    heads_last: list[ir.Value | None],
    caches: tuple[CacheJoin, CacheJoin],
    mask: ir.Value,
    output: ir.Value,
) -> CachedAttention | str:
    query, key, value = heads_last
    cos, sin = rotary.inputs[1:3]
    key_cache, value_cache = caches
    assert query is not None, "checked by the caller"
    assert key is not None, "checked by the caller"
    assert value is not None, "checked by the caller"
    assert cos is not None, "RotaryEmbedding has three inputs"
    assert sin is not None, "RotaryEmbedding has three inputs"
    sizes = [_static(query, 2), _static(key, 2), _static(query, 3), _static(value, 3)]
    if None in sizes or sizes[2] != sizes[3]:
        return "head counts or widths are not static, or key and value differ in width"
    heads, kv_heads, width, _ = (size or 0 for size in sizes)
    scale = node.attributes.get("scale")
    return CachedAttention(
        node=node,
        query=query,
        key=key,
        value=value,
        past=(key_cache.past, value_cache.past),
        present=(key_cache.present, value_cache.present),
        scales=_scales(key_cache, value_cache),
        cos=cos,
        sin=sin,
        interleaved=bool(rotary.attributes.get_int("interleaved", 0)),
        mask=mask,
        heads=heads,
        kv_heads=kv_heads,
        width=width,
        scale=None if scale is None else scale.as_float(),
        softcap=node.attributes.get_float("softcap", 0.0),
        output=output,
    )


def _scales(key: CacheJoin, value: CacheJoin) -> tuple[ir.Value, ir.Value] | None:
    return None if key.scale is None or value.scale is None else (key.scale, value.scale)


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == op_type else None


def _angles(rotary: ir.Node) -> tuple[object, ...]:
    return (*rotary.inputs[1:], rotary.attributes.get_int("interleaved", 0))


def _transposed(value: ir.Value | None) -> ir.Value | None:
    """Return the [batch, sequence, heads, width] value that `value` is the transpose of."""
    node = _producer(value, "Transpose")
    if node is None or tuple(node.attributes.get_ints("perm", ())) != _HEADS_FIRST:
        return None
    return node.inputs[0]


def _merged_heads(value: ir.Value) -> ir.Value | None:
    """Return the [batch, sequence, heads * width] value that an attention's output becomes."""
    users = list(value.consumers())
    if len(users) != 1 or users[0].op_type != "Transpose":
        return None
    if tuple(users[0].attributes.get_ints("perm", ())) != _HEADS_FIRST:
        return None
    users = list(users[0].outputs[0].consumers())
    return users[0].outputs[0] if len(users) == 1 and users[0].op_type == "Reshape" else None


def _static(value: ir.Value, axis: int) -> int | None:
    size = value.shape[axis] if value.shape is not None else None
    return size if isinstance(size, int) else None
