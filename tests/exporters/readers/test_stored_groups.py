from __future__ import annotations

import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.stored_groups import (
    group_count,
    group_within,
    order_of_groups,
    repeated,
)


@pytest.mark.parametrize(
    ("stated", "k", "group"),
    [(128, 1024, 128), (128, 576, 64), (64, 96, 32), (128, 128, 128), (128, 48, 48), (8, 64, 8)],
)
def test_groups_divide_k_or_are_exact_parts_that_do(stated, k, group):
    assert group_within(stated, k) == group
    assert k % group == 0


@pytest.mark.parametrize(("stated", "k"), [(7, 64), (48, 1000), (32, 40)])
def test_a_group_size_that_divides_nothing_has_no_parts(stated, k):
    assert group_within(stated, k) is None


def test_repeats_scales_so_that_every_column_keeps_its_own():
    scales = np.arange(10).reshape(2, 5)  # groups of 128 over 576 columns, the last of 64
    assert group_count(128, 576) == 5
    finer = repeated(scales, 128, 576)
    assert finer.shape == (2, 9)
    for row in range(2):
        for column in range(576):
            assert finer[row, column // 64] == scales[row, column // 128]


@pytest.mark.parametrize(("stated", "k"), [(32, 64), (128, 48)])
def test_leaves_scales_of_whole_groups_alone(stated, k):
    scales = np.ones((3, group_count(stated, k)))
    assert repeated(scales, stated, k) is scales


def test_orders_columns_group_by_group_and_stably():
    groups = np.array([1, 0, 2, 0, 1], np.int32)
    order = order_of_groups("q.g_idx", groups, 2)
    assert order.dtype == np.int64
    assert order.tolist() == [1, 3, 0, 4, 2]


def test_refuses_groups_of_other_sizes():
    groups = np.array([0, 0, 0, 1], np.int32)
    with pytest.raises(
        CheckpointError, match=r"q\.g_idx is no permutation into groups of 2.*has 3"
    ):
        order_of_groups("q.g_idx", groups, 2)


@pytest.mark.parametrize("groups", [[0, 0, 1, 2], [-1, 0, 1, 1]])
def test_refuses_groups_that_do_not_exist(groups):
    with pytest.raises(CheckpointError, match=r"q\.g_idx names the groups .* have 0 to 1"):
        order_of_groups("q.g_idx", np.array(groups, np.int32), 2)
