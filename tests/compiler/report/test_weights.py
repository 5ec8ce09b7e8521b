from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from castline.compiler.report.weights import StoredTensor, quantized_form, stored_tensors
from castline.plugins.packing import pack, pack_scales


def initializer(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
    )


def activation(name: str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 4]))


def graph(nodes: list[ir.Node], constants: list[ir.Value]) -> ir.Graph:
    return ir.Graph([], nodes[-1].outputs, nodes=nodes, initializers=constants, name="g")


def by_name(one: ir.Graph) -> dict[str, StoredTensor]:
    return {tensor.name: tensor for tensor in stored_tensors(one)}


def test_a_float_weight_counts_its_elements() -> None:
    weight = initializer("lm_head.weight", np.zeros((4, 6), np.float16))
    found = by_name(graph([ir.node("MatMul", [activation("x"), weight])], [weight]))
    tensor = found["lm_head.weight"]
    assert (tensor.kind, tensor.dtype, tensor.parameters) == ("head", "float16", 24)
    assert tensor.bytes == 48


def test_int4_is_two_to_a_byte_and_its_scales_belong_to_it() -> None:
    codes = initializer("model.layers.0.mlp.up_proj.weight", np.zeros((4, 8), ml_dtypes.int4))
    scales = initializer("val_3", np.zeros((4, 2), np.float16))
    dequantize = ir.node("DequantizeLinear", [codes, scales], {"axis": 1, "block_size": 4})
    found = by_name(graph([dequantize], [codes, scales]))
    assert (found[codes.name].parameters, found[codes.name].bytes) == (32, 16)
    assert (found["val_3"].parameters, found["val_3"].bytes) == (0, 16)
    assert found["val_3"].kind == "mlp"
    assert found["val_3"].is_weight
    assert quantized_form(dequantize) == "4 bits, groups of 4, without zero-points"


def test_scales_and_offsets_of_codes_belong_to_them() -> None:
    path = "layers.0.mlp.up_proj.weight"
    codes = initializer(f"{path}_quantized", np.zeros((64, 8), ml_dtypes.int4))
    scales = initializer(f"{path}_scale", np.zeros((2, 8), np.float16))
    offsets = initializer(f"{path}_offset", np.zeros((2, 8), np.float32))
    inputs = [activation("x"), codes, scales, offsets]
    node = ir.node("LinearW4A16", inputs, {"block_size": 32}, domain="castline")
    assert quantized_form(node) == "4 bits, groups of 32, with offsets"
    found = by_name(graph([node], inputs[1:]))
    assert [found[part.name].parameters for part in (codes, scales, offsets)] == [512, 0, 0]
    assert found[offsets.name].is_weight


def test_offsets_that_a_product_of_their_own_adds_are_no_weights_of_the_model() -> None:
    offsets = initializer("layers.0.mlp.up_proj.weight_offset", np.zeros((2, 8), np.float32))
    found = by_name(graph([ir.node("MatMul", [activation("sums"), offsets])], [offsets]))
    assert (found[offsets.name].parameters, found[offsets.name].is_weight) == (0, True)


def test_integer_scales_of_groups_are_no_weights_of_the_model() -> None:
    scales = initializer("layers.0.mlp.up_proj.weight_group_scale", np.ones((2, 8), np.int8))
    found = by_name(graph([ir.node("Cast", [scales], {"to": ir.DataType.INT32})], [scales]))
    assert (found[scales.name].parameters, found[scales.name].is_weight) == (0, True)


def matmul_nbits() -> tuple[ir.Node, list[ir.Value]]:
    codes = initializer("model.layers.0.self_attn.o_proj.weight", np.zeros((6, 3, 16), np.uint8))
    scales = initializer("scales", np.zeros((6, 3), np.float32))
    zero_points = initializer("zero_points", np.zeros((6, 2), np.uint8))
    node = ir.node(
        "MatMulNBits",
        [activation("x"), codes, scales, zero_points],
        {"K": 90, "N": 6, "bits": 4, "block_size": 32},
        domain="com.microsoft",
    )
    return node, [codes, scales, zero_points]


def test_matmul_nbits_stands_for_k_times_n_weights_whatever_its_padding() -> None:
    node, constants = matmul_nbits()
    found = by_name(graph([node], constants))
    codes = found["model.layers.0.self_attn.o_proj.weight"]
    assert (codes.parameters, codes.bytes) == (90 * 6, 6 * 3 * 16)
    assert codes.dtype == "uint8 packing 4 bits"
    assert sum(tensor.bytes for tensor in found.values()) == 288 + 72 + 12
    assert {tensor.kind for tensor in found.values()} == {"attention"}
    assert quantized_form(node) == "4 bits, groups of 32, with zero-points"


def test_codes_shared_through_a_reshape_are_seen() -> None:
    codes = initializer("lm_head", np.zeros((6, 32), np.uint8))
    scales = initializer("scales", np.zeros((6, 2), np.float32))
    shape = initializer("shape", np.array([6, 2, 16], np.int64))
    reshape = ir.node("Reshape", [codes, shape])
    node = ir.node(
        "MatMulNBits",
        [activation("x"), reshape.outputs[0], scales],
        {"K": 64, "N": 6, "bits": 4, "block_size": 32},
        domain="com.microsoft",
    )
    found = by_name(graph([reshape, node], [codes, scales, shape]))
    assert found["lm_head"].parameters == 64 * 6
    assert found["scales"].kind == "head"
    assert not found["shape"].is_weight


def test_a_quantized_embedding_counts_its_codes_and_not_its_indices() -> None:
    codes = initializer("model.embed_tokens.weight", np.zeros((10, 16), np.uint8))
    indices = initializer("indices", np.zeros((2,), np.int64))
    scales = initializer("scales", np.zeros((10, 1), np.float32))
    node = ir.node(
        "GatherBlockQuantized",
        [codes, indices, scales],
        {"bits": 4, "block_size": 32},
        domain="com.microsoft",
    )
    found = by_name(graph([node], [codes, indices, scales]))
    assert found["model.embed_tokens.weight"].parameters == 320
    assert found["scales"].kind == "embedding"
    assert not found["indices"].is_weight


def test_scalars_shapes_and_rotary_tables_are_no_weights() -> None:
    constants = [
        initializer("eps", np.array(1e-5, np.float32)),
        initializer("shape", np.array([1, 2], np.int64)),
        initializer("cos_cache", np.zeros((8, 4), np.float32)),
    ]
    node = ir.node("Concat", constants, {"axis": 0})
    found = by_name(graph([node], constants))
    assert all(not tensor.is_weight and tensor.kind == "other" for tensor in found.values())


def test_the_scale_of_an_activation_is_no_weight() -> None:
    scale = initializer("scale", np.ones((4,), np.float32))
    zero_point = initializer("zero_point", np.zeros((4, 1), np.int8))
    quantize = ir.node("QuantizeLinear", [activation("x"), scale, zero_point])
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero_point])
    found = by_name(graph([quantize, dequantize], [scale, zero_point]))
    assert all(tensor.parameters == 0 for tensor in found.values())
    assert quantized_form(dequantize) is None


def test_tensors_in_constant_nodes_count_too() -> None:
    constant = ir.node("Constant", [], {"value": ir.tensor(np.zeros((2, 3), np.float32))})
    constant.outputs[0].name = "model.norm.weight"
    assert by_name(graph([constant], []))["model.norm.weight"].parameters == 6


def test_a_weight_without_a_name_is_known_by_the_modules_of_its_node() -> None:
    weight = initializer("val_73", np.zeros((4, 6), np.float32))
    node = ir.node("MatMul", [activation("x"), weight])
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'model.layers.0.mlp', 'linear']"
    assert by_name(graph([node], [weight]))["val_73"].kind == "mlp"


def test_packed_weights_of_plugins_stand_for_k_times_n_whatever_their_padding() -> None:
    k, n = 96, 20
    parts = {
        "packed": pack(np.zeros((n, k), np.int8), 4),
        "scales": pack_scales(np.ones((n, 3), np.float16)),
        "zero_points": pack_scales(np.zeros((n, 3), np.int8)),
        "bias": np.ones(n, np.float16),
    }
    values = [initializer(f"mlp.up_proj.{name}", array) for name, array in parts.items()]
    attributes = {"k": k, "n": n, "block_size": 32, "layout_version": 1}
    node = ir.node("PackedLinearW4A16", [activation("x"), *values], attributes, domain="castline")
    found = by_name(graph([node], values))
    codes = found["mlp.up_proj.packed"]
    assert (codes.parameters, codes.dtype) == (k * n, "int8 packing 4 bits")
    assert [found[f"mlp.up_proj.{name}"].parameters for name in list(parts)[1:]] == [0, 0, n]
    assert quantized_form(node) == "4 bits, groups of 32, with zero-points"


def test_packed_bytes_are_told_from_packed_halves() -> None:
    values = [
        initializer("packed", pack(np.zeros((20, 96), np.int8), 8)),
        initializer("weight_scale", np.ones(20, np.float16)),
        initializer("castline.no_bias_float16_20", np.zeros(20, np.float16)),
    ]
    read = [activation("codes"), activation("scale"), *values]
    attributes = {"k": 96, "n": 20, "layout_version": 1}
    node = ir.node("PackedLinearW8A8", read, attributes, domain="castline")
    found = by_name(graph([node], values))
    assert [tensor.parameters for tensor in found.values()] == [96 * 20, 0, 0]
    assert quantized_form(node) == "8 bits, no groups, without zero-points"
