"""Find the weights of a graph and how they are stored, without reading them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from castline.compiler.report.layer_kinds import LayerKind, layer_kind
from castline.plugins.catalogue import PACKED_LINEARS
from castline.plugins.op import DOMAIN
from castline.plugins.packing import packed_shape

Use: TypeAlias = tuple[ir.Node, int]

# Where the code of a weight, and what belongs to it, stand among a node's inputs.
_CODE_INPUT = {
    ("", "DequantizeLinear"): 0,
    ("com.microsoft", "DequantizeLinear"): 0,
    ("com.microsoft", "MatMulNBits"): 1,
    ("com.microsoft", "GatherBlockQuantized"): 0,
    ("castline", "LinearW4A16"): 1,
    **{(DOMAIN, op.name): op.inputs.index("packed") for op in PACKED_LINEARS},
}
# Where something stands that does not belong to the code: indices, a bias.
_OTHER_INPUT = {
    ("com.microsoft", "GatherBlockQuantized"): 1,
    **{(DOMAIN, op.name): op.inputs.index("bias") for op in PACKED_LINEARS},
}
_VIEWS = frozenset(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"))
_FLOATS = frozenset(
    dtype for dtype in ir.DataType if dtype.name.startswith(("FLOAT", "BFLOAT", "DOUBLE"))
)
_NARROW = frozenset(
    dtype for dtype in ir.DataType if dtype.name in ("INT2", "UINT2", "INT4", "UINT4")
)
_BYTES = frozenset((ir.DataType.INT8, ir.DataType.UINT8))
_OF_GROUPS = ("_offset", "_group_scale")  # of codes, where a product by itself applies it
_ZEROS = ("zero_points", "offsets", "weight_zero_point")
_WITH_OFFSETS = ("LinearW4A16", "PackedLinearW4A16Offsets")
_ROTARY = ("cos_cache", "sin_cache", "inv_freq", "rotary")


@dataclass(frozen=True)
class StoredTensor:
    """One constant of a graph."""

    name: str
    kind: LayerKind
    dtype: str
    parameters: int
    """How many weights of the model it stands for; 0 for scales, zero-points and constants."""
    bytes: int
    is_weight: bool
    """Whether it is a weight or belongs to one, as its scales do."""
    storage: tuple[str, int] | None
    """External file and offset: two tensors at one place are stored once."""


def stored_tensors(graph: ir.Graph) -> Iterator[StoredTensor]:
    """Yield every initializer of `graph` and its subgraphs, and every tensor in a Constant node."""
    for part in (graph, *graph.subgraphs()):
        for value in part.initializers.values():
            if value.const_value is not None:
                yield _stored(value, value.const_value)
    for node in graph.all_nodes():
        tensor = node.attributes.get("value") if node.op_type == "Constant" else None
        if tensor is not None and tensor.type == ir.AttributeType.TENSOR:
            yield _stored(node.outputs[0], tensor.as_tensor())


def quantized_form(node: ir.Node) -> str | None:
    """How the weight of `node` is quantized, such as "4 bits, groups of 128"; None if it is not."""
    code = _code(node)
    if code is None or code.const_value is None:
        return None  # not a quantized operator, or its code is an activation
    bits = _code_bits(node, code.const_value)
    block = node.attributes.get_int("block_size", 0)
    place = 2 if node.op_type == "DequantizeLinear" else 3
    zero_points = len(node.inputs) > place and node.inputs[place] is not None
    if _is_packed(node):
        zero_points = any(name in _ZEROS for name in _input_names(node))
    beside = "offsets" if node.op_type in _WITH_OFFSETS else "zero-points"
    return (
        f"{bits} bits, {f'groups of {block}' if block else 'no groups'}, "
        f"{'with' if zero_points else 'without'} {beside}"
    )


def _is_packed(node: ir.Node) -> bool:
    return any(op.is_op_of(node) for op in PACKED_LINEARS)


def _input_names(node: ir.Node) -> tuple[str, ...]:
    return next(op.inputs for op in PACKED_LINEARS if op.is_op_of(node))


def _code_bits(node: ir.Node, code: ir.TensorProtocol) -> int:
    if _is_packed(node):
        k, n = (node.attributes.get_int(size, 0) for size in ("k", "n"))
        return 4 if tuple(code.shape.numpy()) == packed_shape(n, k, 4) else 8
    return node.attributes.get_int("bits", int(8 * code.dtype.itemsize))


def _code(node: ir.Node) -> ir.Value | None:
    """The quantized weight that `node` reads, seen through reshapes."""
    place = _CODE_INPUT.get((node.domain, node.op_type))
    value = None if place is None else node.inputs[place]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type not in _VIEWS:
            return value
        value = producer.inputs[0]
    return value


def _uses(value: ir.Value) -> Iterator[Use]:
    """The nodes that read `value`, seen through reshapes, and at which input."""
    for node, place in value.uses():
        if node.op_type in _VIEWS and place == 0:
            yield from _uses(node.outputs[0])
        else:
            yield node, place


def _stored(value: ir.Value, tensor: ir.TensorProtocol) -> StoredTensor:
    uses = tuple(_uses(value))
    # A scale belongs to the weight that it scales, whatever it is called.
    owners = tuple(owner.name or "" for use in uses if (owner := _owner(use)) is not None)
    belongs = bool(owners) or (value.name or "").endswith(_OF_GROUPS)
    parameters = 0 if belongs else _parameters(value.name or "", tensor, uses)
    is_weight = parameters > 0 or belongs
    paths = (*owners, value.name or "", *(_path(node) for node, _place in uses))
    return StoredTensor(
        name=value.name or "",
        kind=layer_kind(*paths) if is_weight else "other",
        dtype=_dtype_name(tensor, uses),
        parameters=parameters,
        bytes=_bytes(tensor),
        is_weight=is_weight,
        storage=_storage(tensor),
    )


def _path(node: ir.Node) -> str:
    """Where the node stands in the model: its name, and the modules that torch's exporter notes."""
    return f"{node.name or ''} {node.metadata_props.get('pkg.torch.onnx.name_scopes', '')}"


def _owner(use: Use) -> ir.Value | None:
    """The quantized weight whose scale or zero-point this is; None if it is nothing of the kind."""
    node, place = use
    operator = (node.domain, node.op_type)
    if place in (_CODE_INPUT.get(operator), _OTHER_INPUT.get(operator)):
        return None
    return _code(node)


def _parameters(name: str, tensor: ir.TensorProtocol, uses: tuple[Use, ...]) -> int:
    for node, place in uses:
        if node.op_type == "MatMulNBits" and place == 1:
            return node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0)
        if _is_packed(node) and place == _CODE_INPUT[DOMAIN, node.op_type]:
            return node.attributes.get_int("k", 0) * node.attributes.get_int("n", 0)
        if node.op_type == "GatherBlockQuantized" and place == 0:
            bits = node.attributes.get_int("bits", 4)
            return int(8 * tensor.size * tensor.dtype.itemsize) // bits
        if node.op_type == "QuantizeLinear" and place > 0:
            return 0  # the scale or zero-point of an activation
    if name.startswith(f"{DOMAIN}.") or any(word in name for word in _ROTARY):
        return 0
    rank = len(tensor.shape)
    is_code = tensor.dtype in _NARROW or (tensor.dtype in _BYTES and rank > 1)
    return tensor.size if is_code or (tensor.dtype in _FLOATS and rank > 0) else 0


def _dtype_name(tensor: ir.TensorProtocol, uses: tuple[Use, ...]) -> str:
    """The dtype; for bytes that hold packed codes, also how many bits a code has."""
    name = tensor.dtype.name.lower()
    for node, place in uses:
        if _CODE_INPUT.get((node.domain, node.op_type)) == place:
            bits = (
                _code_bits(node, tensor) if _is_packed(node) else node.attributes.get_int("bits", 0)
            )
            return f"{name} packing {bits} bits" if 0 < bits < 8 else name
    return name


def _bytes(tensor: ir.TensorProtocol) -> int:
    if tensor.dtype == ir.DataType.STRING:
        return sum(len(text) for text in tensor.numpy().flat)
    return tensor.nbytes


def _storage(tensor: ir.TensorProtocol) -> tuple[str, int] | None:
    if isinstance(tensor, ir.ExternalTensor):
        return str(tensor.location), tensor.offset or 0
    return None
