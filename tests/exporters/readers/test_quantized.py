from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.quantized import QuantizedReader, refuse_unexplained
from castline.exporters.readers.stored import Read, StoredLinear, StoredMatrix, StoredScheme
from castline.exporters.readers.tensors import Array, TensorSpec

SCHEME = StoredScheme("integer", 8, "per-channel", symmetric=True)
TENSORS = {
    "a.codes": np.array([[-128, 127], [3, 0]], np.int8),
    "a.step": np.array([[0.5], [0.25]], ml_dtypes.bfloat16),
    "norm.weight": np.ones(2, np.float32),
    "a.k_scale": np.ones(1, np.float32),
}


class Memory:
    """Tensors in memory, as a reader of files."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = dict(arrays)
        self.files = (Path("folder/model.safetensors"),)
        self.reads: list[str] = []

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        return {name: TensorSpec(a.shape, a.dtype) for name, a in self.arrays.items()}

    def read(self, name: str) -> Array:
        self.reads.append(name)
        return self.arrays[name]

    def file_of(self, name: str) -> Path:
        return Path(f"folder/file of {name}")


class Steps:
    """A format with codes [N, K] and a step for each row."""

    name = "steps"

    def linears(self, tensors: Mapping[str, TensorSpec]) -> dict[str, StoredLinear]:
        if "bad" in tensors:
            raise CheckpointError("bad is here")
        spec = TensorSpec((2, 2), np.dtype(ml_dtypes.bfloat16))
        parts = {"codes": "a.codes", "step": "a.step"}
        return {"a.weight": StoredLinear(SCHEME, spec, parts)} if "a.codes" in tensors else {}

    def set_aside(self, tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
        return {name: "for a cache" for name in tensors if name.endswith("k_scale")}

    def matrix(self, name: str, linear: StoredLinear, read: Read) -> StoredMatrix:
        step = read(linear.parts["step"])
        if (step == 0).any():
            raise CheckpointError(f"{linear.parts['step']} of {name} is zero")
        return StoredMatrix(read(linear.parts["codes"]), step)


def test_a_weight_is_shown_in_place_of_its_parts() -> None:
    reader = QuantizedReader(Memory(TENSORS), Steps())
    assert reader.tensors == {
        "a.weight": TensorSpec((2, 2), np.dtype(ml_dtypes.bfloat16)),
        "norm.weight": TensorSpec((2,), np.dtype(np.float32)),
    }
    assert reader.files == (Path("folder/model.safetensors"),)
    assert reader.left_out == {"a.k_scale": "for a cache"}


def test_a_weight_is_dequantized_in_the_type_that_is_shown() -> None:
    memory = Memory(TENSORS)
    reader = QuantizedReader(memory, Steps())
    assert memory.reads == []
    weight = reader.read("a.weight")
    assert weight.dtype == ml_dtypes.bfloat16
    # 63.5 is exact in the seven stored bits of bfloat16.
    np.testing.assert_array_equal(weight.astype(np.float32), [[-64, 63.5], [0.75, 0]])
    assert sorted(memory.reads) == ["a.codes", "a.step"]


def test_other_tensors_are_handed_out_as_they_are() -> None:
    reader = QuantizedReader(Memory(TENSORS), Steps())
    assert reader.read("norm.weight") is TENSORS["norm.weight"]
    assert reader.file_of("norm.weight") == Path("folder/file of norm.weight")


def test_codes_are_handed_out_unchanged() -> None:
    reader = QuantizedReader(Memory(TENSORS), Steps())
    np.testing.assert_array_equal(reader.matrix("a.weight").codes, TENSORS["a.codes"])
    assert reader.stored["a.weight"].scheme == SCHEME


def test_what_the_format_refuses_is_told_with_the_place() -> None:
    with pytest.raises(CheckpointError, match=r"^folder: bad is here"):
        QuantizedReader(Memory(TENSORS | {"bad": TENSORS["a.codes"]}), Steps())
    zero = {"a.step": np.zeros((2, 1), ml_dtypes.bfloat16)}
    reader = QuantizedReader(Memory(TENSORS | zero), Steps())
    with pytest.raises(CheckpointError, match=r"^folder/file of a\.codes: a\.step of a\.weight is"):
        reader.read("a.weight")


def test_a_configuration_without_quantized_tensors_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"folder: .*quantized \(steps\), and no tensor is"):
        QuantizedReader(Memory({"norm.weight": TENSORS["norm.weight"]}), Steps())


@pytest.mark.parametrize("stranger", ["b.qweight", "b.weight_packed", "b.weight_scale", "b.SCB"])
def test_tensors_of_another_format_are_refused_by_name(stranger: str) -> None:
    tensors = TENSORS | {stranger: TENSORS["a.codes"]}
    with pytest.raises(
        CheckpointError, match=rf"folder mixes formats: .*steps, and 1 .*{stranger}"
    ):
        QuantizedReader(Memory(tensors), Steps())


def test_a_weight_both_packed_and_in_float_is_refused_by_name() -> None:
    tensors = TENSORS | {"a.weight": np.ones((2, 2), np.float16)}
    with pytest.raises(CheckpointError, match=r"both quantized \(steps\) and in float: a\.weight"):
        QuantizedReader(Memory(tensors), Steps())


def test_packed_tensors_without_a_configuration_are_refused_by_name() -> None:
    refuse_unexplained(Memory(TENSORS))
    with pytest.raises(CheckpointError, match=r"parts of quantized weights \(b\.qweight\), and"):
        refuse_unexplained(Memory({"b.qweight": TENSORS["a.codes"]}))
