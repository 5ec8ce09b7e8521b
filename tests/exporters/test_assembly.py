"""What transformers' converters make of tensors is made here, too, without reading them first."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    MergeModulelist,
    Split,
    Transpose,
    WeightConverter,
)

from castline.exporters.assembly import (
    Assembly,
    Described,
    numpy_from_torch,
    torch_from_numpy,
)
from castline.exporters.readers.converted import Made
from castline.exporters.readers.tensors import TensorSpec

DTYPES = [
    np.float32, np.float16, np.int8, np.uint8, np.int64, ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
]  # fmt: skip


def assembly(
    converter: WeightConverter, target: str, shapes: dict[str, Any] | None = None
) -> Assembly:
    return Assembly(converter, target, Described(LlamaConfig(), shapes or {}))


def specs_of(arrays: dict[str, np.ndarray]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(a.shape, a.dtype) for name, a in arrays.items()}


def values(made: Made, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    parts = [part.make([arrays[s] for s in part.sources]) for part in made.parts if part.make]
    assert len(parts) == len(made.parts)
    return parts


def numbered(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stack_has_a_part_for_each_expert(dtype: Any) -> None:
    converter = WeightConverter(
        ["mlp.experts.*.gate.weight", "mlp.experts.*.up.weight"],
        "mlp.experts.gate_up",
        [MergeModulelist(dim=0), Concatenate(dim=1)],
    )
    kinds = {"gate": numbered((3, 2), dtype), "up": numbered((3, 2), dtype)[::-1].copy()}
    arrays = {f"0.mlp.experts.{e}.{kind}.weight": a for e in range(4) for kind, a in kinds.items()}
    sources = {
        f"mlp.experts.*.{kind}.weight": [f"0.mlp.experts.{e}.{kind}.weight" for e in range(4)]
        for kind in kinds
    }
    made = assembly(converter, "0.mlp.experts.gate_up").made(sources, specs_of(arrays))
    (result,) = made.values()
    assert made.keys() == {"0.mlp.experts.gate_up"}
    assert result.spec == TensorSpec((4, 6, 2), np.dtype(dtype))
    for part in values(result, arrays):
        assert part.dtype == dtype
        np.testing.assert_array_equal(part, np.concatenate([kinds["gate"], kinds["up"]])[None])


@pytest.mark.parametrize(
    "operations",
    [[MergeModulelist(dim=1)], [MergeModulelist(dim=0), Transpose(0, 1)], [Concatenate(dim=0)]],
)
def test_what_mixes_the_first_axis_is_made_whole(operations: list[Any]) -> None:
    converter = WeightConverter("experts.*.w", "experts.w", operations)
    arrays = {f"experts.{e}.w": numbered((2, 3)) + e for e in range(2)}
    made = assembly(converter, "experts.w").made({"experts.*.w": list(arrays)}, specs_of(arrays))
    (whole,) = values(made["experts.w"], arrays)
    stacked = [np.stack(list(arrays.values()), 1), np.concatenate(list(arrays.values()))]
    expected = stacked[1] if isinstance(operations[0], Concatenate) else stacked[0]
    np.testing.assert_array_equal(whole, expected)
    assert made["experts.w"].spec.shape == whole.shape


def test_one_tensor_becomes_several_parameters() -> None:
    converter = WeightConverter("attn.qkv.weight", ["attn.q.weight", "attn.k.weight"], [Chunk(0)])
    arrays = {"0.attn.qkv.weight": numbered((6, 2), ml_dtypes.bfloat16)}
    made = assembly(converter, "0.attn.q.weight").made(
        {"attn.qkv.weight": list(arrays)}, specs_of(arrays)
    )
    assert made.keys() == {"0.attn.q.weight", "0.attn.k.weight"}
    (key,) = values(made["0.attn.k.weight"], arrays)
    np.testing.assert_array_equal(key, arrays["0.attn.qkv.weight"][3:])


def test_a_converter_may_ask_the_model_for_shapes() -> None:
    converter = WeightConverter("qkv.weight", ["q.weight", "k.weight"], [Split(dim=0)])
    arrays = {"0.qkv.weight": numbered((6, 2))}
    shapes = {"0.q.weight": (4, 2), "0.k.weight": (2, 2)}
    made = assembly(converter, "0.q.weight", shapes).made(
        {"qkv.weight": list(arrays)}, specs_of(arrays)
    )
    assert {name: each.spec.shape for name, each in made.items()} == shapes
    (key,) = values(made["0.k.weight"], arrays)
    np.testing.assert_array_equal(key, arrays["0.qkv.weight"][4:])


def test_shapes_that_do_not_go_together_are_torch_s_error() -> None:
    converter = WeightConverter(["a.w", "b.w"], "ab.w", [Concatenate(dim=0)])
    arrays = {"a.w": numbered((2, 3)), "b.w": numbered((2, 4))}
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        assembly(converter, "ab.w").made({"a.w": ["a.w"], "b.w": ["b.w"]}, specs_of(arrays))


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_become_tensors_and_back(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.asarray(numbered(shape, dtype))
    tensor = torch_from_numpy(array)
    assert tensor.shape == shape
    back = numpy_from_torch(tensor)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


def test_bfloat16_keeps_its_meaning_in_torch() -> None:
    tensor = torch_from_numpy(np.array([1.5, -2.0], ml_dtypes.bfloat16))
    assert torch.equal(tensor, torch.tensor([1.5, -2.0], dtype=torch.bfloat16))


def test_a_read_only_array_is_copied() -> None:
    array = numbered((3,))
    array.flags.writeable = False
    torch_from_numpy(array).zero_()
    np.testing.assert_array_equal(array, [0, 1, 2])


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([MergeModulelist(dim=0)], True),
        ([MergeModulelist(dim=0), Concatenate(dim=1)], True),
        ([MergeModulelist(dim=0), Concatenate(dim=2)], False),
        ([Concatenate(dim=0)], True),
        ([Concatenate(dim=1)], False),
        ([Chunk(dim=0)], True),
        ([Chunk(dim=1)], False),
        ([Transpose(0, 1)], False),
    ],
)
def test_rows_move_where_matrices_are_stacked_joined_or_split_along_them(
    operations: list[Any], expected: bool
) -> None:
    converter = WeightConverter(["a.weight"], "b.weight", operations=operations)
    assert assembly(converter, "b.weight").moves_rows == expected
