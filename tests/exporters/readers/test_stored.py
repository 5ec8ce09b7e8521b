from __future__ import annotations

import numpy as np

from castline.exporters.readers.stored import StoredMatrix

CODES = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
SCALES = np.array([[0.5, 2], [1, 4]], np.float16)
ZEROS = np.array([[1, 2], [3, 0]], np.uint8)


def test_a_weight_is_its_code_less_the_zero_point_times_the_scale() -> None:
    weight = StoredMatrix(CODES, SCALES, ZEROS).weight()
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, [[-0.5, 0, 0, 2], [0, -1, 4, 0]])


def test_offsets_are_added_to_scaled_codes() -> None:
    offsets = np.array([[10, 20], [30, 40]], np.float32)
    weight = StoredMatrix(CODES.view(np.int8), SCALES, offsets=offsets).weight()
    np.testing.assert_array_equal(weight, [[10, 10.5, 24, 26], [33, 32, 44, 40]])


def test_one_scale_serves_a_row_or_the_whole() -> None:
    codes = CODES.view(np.int8)
    per_row = StoredMatrix(codes, np.array([[2], [3]], np.float16)).weight()
    np.testing.assert_array_equal(per_row, [[0, 2, 4, 6], [9, 6, 3, 0]])
    whole = StoredMatrix(codes, np.array([[2]], np.float16)).weight()
    np.testing.assert_array_equal(whole, [[0, 2, 4, 6], [6, 4, 2, 0]])


def test_columns_go_back_to_the_channels_they_multiply_and_then_are_scaled() -> None:
    order = np.array([2, 0, 3, 1])
    scale = np.array([1, 10, 100, 1000], np.float16)
    codes, ones = CODES.view(np.int8), np.ones((2, 1), np.float16)
    weight = StoredMatrix(codes, ones, order=order, input_scale=scale).weight()
    np.testing.assert_array_equal(weight, [[1, 30, 0, 2000], [2, 0, 300, 1000]])
