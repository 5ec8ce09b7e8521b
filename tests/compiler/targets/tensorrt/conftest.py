"""Build the smallest graphs that show what TensorRT-RTX takes and refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from castline.compiler.passes.fixed_cache import FixedCache
from castline.compiler.targets.write import write_model
from castline.exporters.names import CAPACITY
from castline.plugins.linear_w4a16.op import LINEAR_W4A16
from castline.plugins.linear_w4a16.packed import PACKED_LINEAR_W4A16
from castline.plugins.packing import pack, pack_scales

Value = tuple[str, int, list[int | str]]
SaveGraph = Callable[..., Path]
SaveLinear = Callable[..., Path]
SaveAttention = Callable[..., Path]


@pytest.fixture
def save_graph(tmp_path: Path) -> SaveGraph:
    """Save a graph; with `external`, all initializers but the smallest go to model.onnx.data."""

    def save(
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        initializers: Sequence[onnx.TensorProto] = (),
        *,
        external: bool = False,
    ) -> Path:
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            initializers,
        )
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
        path = tmp_path / "model" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        onnx.save(
            model,
            path,
            save_as_external_data=external,
            location="model.onnx.data",
            size_threshold=100,
        )
        return path

    return save


@pytest.fixture
def save_linear(save_graph: SaveGraph) -> SaveLinear:
    """Save `inputs_embeds [batch, sequence, K] @ weight [K, N]`, in fp16 or in blocks along K."""

    def save(
        k: int = 64,
        n: int = 16,
        *,
        block: int | None = None,
        zero_points: Sequence[int] | None = None,
        weight_type: int = TensorProto.INT4,
        external: bool = False,
    ) -> Path:
        codes = np.random.default_rng(0).integers(0, 8, (k, n))
        weight = numpy_helper.from_array(codes.astype(np.float16), "proj.weight")
        initializers, nodes, right = [weight], [], "proj.weight"
        if block is not None:
            low_bit = helper.tensor_dtype_to_np_dtype(weight_type)
            scales = np.full((k // block, n), 0.5, np.float16)
            initializers = [
                numpy_helper.from_array(codes.astype(low_bit), "proj.weight"),
                numpy_helper.from_array(scales, "proj.scale"),
            ]
            names = ["proj.weight", "proj.scale"]
            if zero_points is not None:
                zeros = np.resize(zero_points, scales.shape).astype(low_bit)
                initializers.append(numpy_helper.from_array(zeros, "proj.zero"))
                names.append("proj.zero")
            right = "proj.float"
            dequantize = helper.make_node(
                "DequantizeLinear", names, [right], "proj/dequantize", axis=0, block_size=block
            )
            nodes.append(dequantize)
        nodes.append(helper.make_node("MatMul", ["inputs_embeds", right], ["y"], "proj"))
        half = TensorProto.FLOAT16
        return save_graph(
            nodes,
            [("inputs_embeds", half, ["batch", "sequence", k])],
            [("y", half, ["batch", "sequence", n])],
            initializers,
            external=external,
        )

    return save


@pytest.fixture
def save_attention(save_graph: SaveGraph) -> SaveAttention:
    """Save a decoder's core: keys and values from one embedding, the cache joined outside.

    The embedding is `[batch, sequence, 2 * head]`; there are two heads.
    """

    def save(
        dtype: int = TensorProto.FLOAT16,
        head: int = 64,
        *,
        marked: bool = False,
        outputs: int = 1,
        external: bool = False,
    ) -> Path:
        heads = np.array([0, 0, 2, head], np.int64)
        merged = np.array([0, 0, 2 * head], np.int64)
        ones = np.ones(2 * head, helper.tensor_dtype_to_np_dtype(dtype))
        marks = {"TRT_decomposable": 1} if marked else {}
        results = ["attended", "k", "v", "scores"][:outputs]
        key, value = "past_key_values.0.key", "past_key_values.0.value"
        nodes = [
            helper.make_node("RMSNormalization", ["inputs_embeds", "norm.weight"], ["x"], "norm"),
            helper.make_node("Reshape", ["x", "heads"], ["split"], "split"),
            helper.make_node("Transpose", ["split"], ["q"], "heads_first", perm=[0, 2, 1, 3]),
            helper.make_node("Concat", [key, "q"], ["present.0.key"], "join_key", axis=2),
            helper.make_node("Concat", [value, "q"], ["present.0.value"], "join_value", axis=2),
            helper.make_node(
                "Attention",
                ["q", "present.0.key", "present.0.value"],
                results,
                "layers.0.attention",
                **marks,
            ),
            helper.make_node("Transpose", ["attended"], ["back"], "back", perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["back", "merged"], ["y"], "merge"),
        ]
        cache = ["batch", 2, "past", head]
        grown = ["batch", 2, "total", head]
        embeds = ["batch", "sequence", 2 * head]
        return save_graph(
            nodes,
            [("inputs_embeds", dtype, embeds), (key, dtype, cache), (value, dtype, cache)],
            [
                ("y", dtype, embeds),
                ("present.0.key", dtype, grown),
                ("present.0.value", dtype, grown),
            ],
            [
                numpy_helper.from_array(ones, "norm.weight"),
                numpy_helper.from_array(heads, "heads"),
                numpy_helper.from_array(merged, "merged"),
            ],
            external=external,
        )

    return save


@pytest.fixture
def save_offsets(save_graph: SaveGraph) -> Callable[..., Path]:
    """Save two products of one value with INT4 codes that have offsets, joined; weights apart."""

    def save(size: int = 64, block: int = 32, dtype: int = TensorProto.FLOAT16) -> Path:
        random = np.random.default_rng(0)
        nodes, initializers = [], []
        for name in ("first", "second"):
            codes = random.integers(-8, 8, (size, size)).astype(ml_dtypes.int4)
            shape = (size // block, size)
            scales = random.uniform(0.5, 1, shape).astype(helper.tensor_dtype_to_np_dtype(dtype))
            parts = {
                "codes": codes,
                "scales": scales,
                "offsets": random.standard_normal(shape).astype(np.float32),
            }
            initializers += [
                numpy_helper.from_array(array, f"{name}.{part}") for part, array in parts.items()
            ]
            inputs = ["inputs_embeds", *(f"{name}.{part}" for part in parts)]
            nodes.append(
                helper.make_node(
                    "LinearW4A16", inputs, [name], name, domain="castline", block_size=block
                )
            )
        nodes.append(helper.make_node("Add", ["first", "second"], ["y"], "sum"))
        ports = [(name, dtype, ["batch", "sequence", size]) for name in ("inputs_embeds", "y")]
        path = save_graph(nodes, ports[:1], ports[1:], initializers, external=True)
        model = ir.load(path)
        LINEAR_W4A16.define_in(model)
        ir.save(model, path)
        return path

    return save


@pytest.fixture
def save_packed(tmp_path: Path) -> Callable[..., Path]:
    """Save a product by INT4 codes in the packed layout of plugins, [64, 48] in groups of 32."""

    def save(k: int = 64, n: int = 48, block: int = 32) -> Path:
        random = np.random.default_rng(0)
        parts = {
            "packed": pack(random.integers(-8, 8, (n, k)), 4),
            "scales": pack_scales(random.uniform(0.5, 1, (n, k // block)).astype(np.float16)),
            "zero_points": pack_scales(random.integers(-8, 8, (n, k // block)).astype(np.int8)),
            "bias": np.zeros(n, np.float16),
        }
        model = ir.from_onnx_text(f"""
            <ir_version: 10, opset_import: ["" : 23, "castline" : 1]>
            g (float16[batch, sequence, {k}] inputs_embeds) => (float16[batch, sequence, {n}] y)
            {{ y = castline.PackedLinearW4A16
                   <k = {k}, n = {n}, block_size = {block}, layout_version = 1>
                   (inputs_embeds, {", ".join(f"proj_{name}" for name in parts)}) }}
        """)
        model.graph[0].name = "proj"
        PACKED_LINEAR_W4A16.define_in(model)
        for value, array in zip(model.graph[0].inputs[1:], parts.values(), strict=True):
            assert value is not None
            value.const_value = ir.Tensor(array, name=value.name)
            value.shape, value.dtype = value.const_value.shape, value.const_value.dtype
            model.graph.initializers.add(value)
        folder = tmp_path / "packed"
        folder.mkdir()
        return write_model(model, folder)

    return save


@pytest.fixture(scope="session")
def engine_graph(
    tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return the tiny Llama's graph as an engine has it: "growing" or "fixed", and with "last".

    "sliced" are last logits of which it is not seen before the run that they are one row.
    """
    folder = tmp_path_factory.mktemp("engine-graphs")

    def made(form: str) -> Path:
        path = folder / f"{form}.onnx"
        if path.is_file():
            return path
        model = onnx.load(tiny("llama").graph)
        if "fixed" in form:
            turned = ir.from_proto(model)
            assert FixedCache()(turned) == {}
            model = ir.to_proto(turned)
            for value in (*model.graph.input, *model.graph.output):
                for size in value.type.tensor_type.shape.dim:
                    if size.dim_param == CAPACITY:
                        size.dim_value = ROOM
        if "last" in form or "sliced" in form:
            _keep_last_row(model.graph, seen="last" in form)
        onnx.save(model, path)
        return path

    return made


ROOM = 48


def _keep_last_row(graph: onnx.GraphProto, *, seen: bool) -> None:
    producer = next(node for node in graph.node if "logits" in node.output)
    producer.output[list(producer.output).index("logits")] = "all_logits"
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    logits = next(value for value in graph.output if value.name == "logits")
    size = logits.type.tensor_type.shape.dim[1]
    if seen:
        size.dim_value = 1
        node = helper.make_node("Gather", ["all_logits", "last"], ["logits"], axis=1)
    else:
        size.dim_param = "rows"
        for name, number in (("end", np.iinfo(np.int64).max), ("axis", 1)):
            graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
        node = helper.make_node("Slice", ["all_logits", "last", "end", "axis"], ["logits"])
    graph.node.append(node)


@pytest.fixture
def engine_file(
    engine_graph: Callable[[str], Path], fake_gpu: ModuleType, tmp_path: Path
) -> Callable[..., Path]:
    """Write an engine for the fake, of batch 1 to 2 and up to 40 past tokens.

    `profiles` has the fewest and the most new tokens of each: one for prompts, one for decoding.
    """

    def made(form: str, profiles: Sequence[tuple[int, int]] = ((1, 8), (1, 1))) -> Path:
        graph = engine_graph(form)
        inputs = onnx.load(graph, load_external_data=False).graph.input
        engine = tmp_path / "model.engine"
        engine.write_bytes(fake_gpu.serialized(graph, [_ranges(inputs, *new) for new in profiles]))
        return engine

    return made


def _ranges(inputs: Any, fewest: int, most: int) -> dict[str, tuple[list[int], list[int]]]:
    ranges = {}
    for value in inputs:
        sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
        low, high = list(sizes), list(sizes)
        low[0], high[0] = 1, 2
        if value.name in ("input_ids", "position_ids"):
            low[1], high[1] = fewest, most
        elif value.name == "attention_mask" and not sizes[1]:
            low[1], high[1] = fewest, 40 + most
        elif value.name.startswith("past") and not sizes[2]:
            low[2], high[2] = 0, 40
        ranges[value.name] = (low, high)
    return ranges
