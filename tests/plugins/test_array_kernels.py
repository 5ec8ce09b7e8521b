"""The kernels on arrays of numpy, and of torch."""

from __future__ import annotations

import numpy as np
import pytest

from castline.plugins.array_kernels import ArrayKernels, HostMemory
from castline.plugins.packing import pack, pack_scales


def test_results_start_as_rubbish() -> None:
    assert (HostMemory().full_of_rubbish((2, 3), "bfloat16").view(np.uint16) == 0xCDCD).all()


def test_a_weight_only_product_of_arrays(emulated: ArrayKernels) -> None:
    codes = (np.arange(16 * 64).reshape(16, 64) % 16 - 8).astype(np.int8)
    scales = np.array([[0.5, 2]] * 16, np.float16)
    zero_points = np.array([[1, -1]] * 16, np.int8)
    x = np.eye(3, 64, 31, dtype=np.float16)  # token t takes input channel 31 + t
    bias = np.arange(16).astype(np.float16)
    y = emulated.weight_only(
        *(x, pack(codes, 4), pack_scales(scales), pack_scales(zero_points), bias),
        **{"n": 16, "k": 64, "group": 32},
    )
    expected = [(codes[:, 31] - 1) * 0.5, (codes[:, 32] + 1) * 2, (codes[:, 33] + 1) * 2]
    np.testing.assert_array_equal(y, (np.array(expected) + bias).astype(np.float16))


def test_an_integer_product_of_arrays(emulated: ArrayKernels) -> None:
    codes = np.ones((2, 64), np.int8)
    weight = np.full((16, 64), 3, np.int8)
    one, zero = np.ones(16, np.float16), np.zeros(16, np.float16)
    scale = np.array([[1], [0.5]], np.float32)
    y = emulated.integer(codes, scale, pack(weight, 8), one, zero, n=16, k=64, weight_bits=8)
    np.testing.assert_array_equal(y, np.repeat([[192], [96]], 16, 1).astype(np.float16))


def test_arrays_of_the_wrong_shape_or_type_are_not_passed_on(emulated: ArrayKernels) -> None:
    x, sources = np.zeros((1, 8), np.float16), [np.zeros(8, np.int32), np.ones(8, np.float32)]
    none = [np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)]
    with pytest.raises(AssertionError, match=r"\(8,\) should be \(9,\)"):
        emulated.reassemble(np.zeros((1, 9), np.float16), *sources, *none)
    with pytest.raises(AssertionError, match="int32"):
        emulated.reassemble(x, sources[0].astype(np.int64), sources[1], *none)
    with pytest.raises(AssertionError, match="contiguous"):
        emulated.quantize(np.zeros((4, 16), np.float16)[:, ::2], 8, symmetric=True)


@pytest.mark.gpu
def test_tensors_on_a_gpu_lie_where_they_say() -> None:
    import torch

    from castline.plugins.array_kernels import CudaMemory

    memory = CudaMemory(torch)
    tensor = memory.full_of_rubbish((2, 3), "bfloat16")
    assert memory.address(tensor) == tensor.data_ptr()
    assert memory.type_name(tensor) == "bfloat16"
    assert (tensor.view(torch.uint8) == 0xCD).all()
