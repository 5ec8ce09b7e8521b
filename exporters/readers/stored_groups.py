"""Bring the groups that share a scale into the one shape that a stored matrix has."""

from __future__ import annotations

import math

import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.tensors import Array

_SMALLEST = 16  # neighbours along K; no runtime multiplies with smaller groups


def group_within(stated: int, k: int) -> int | None:
    """Return the size of groups that divide K and are the stated ones, or exact parts of them.

    A group of 128 with K = 576 leaves 64 over, so it is two groups of 64 with the same scale. None
    where the parts would be fewer than 16 columns: such a group size fits no such matrix.
    """
    if stated >= k:
        return k
    part = math.gcd(stated, k)
    return part if part in (stated, k) or part >= _SMALLEST else None


def group_count(stated: int, k: int) -> int:
    """Return how many groups of the stated size K columns have, a ragged last one included."""
    return math.ceil(k / stated)


def repeated(values: Array, stated: int, k: int) -> Array:
    """Return values [N, groups of the stated size] as [N, groups of `group_within`]."""
    group = group_within(stated, k)
    assert group is not None, "a linear was listed whose groups do not fit"
    if k % stated == 0 or group == k:
        return values
    return np.ascontiguousarray(values.repeat(stated // group, axis=1)[:, : k // group])


def order_of_groups(name: str, groups: Array, stated: int) -> Array:
    """Return int64 [K], the columns group by group, each group's in their own order.

    `groups` [K] is the group of each column, the content of the tensor `name`. Raises
    CheckpointError unless it puts `stated` columns into each group, the last one excepted.
    """
    k = len(groups)
    expected = np.full(group_count(stated, k), stated)
    expected[-1] = k - stated * (len(expected) - 1)
    if groups.min() < 0 or groups.max() >= len(expected):
        raise CheckpointError(
            f"{name} names the groups {groups.min()} to {groups.max()}; {k} columns in groups of "
            f"{stated} have 0 to {len(expected) - 1}. Get the checkpoint again."
        )
    found = np.bincount(groups, minlength=len(expected))
    if wrong := np.flatnonzero(found != expected).tolist():
        first = wrong[0]
        raise CheckpointError(
            f"{name} is no permutation into groups of {stated}: {len(wrong)} of {len(expected)} "
            f"groups have another number of columns, group {first} has {found[first]}. "
            "Get the checkpoint again."
        )
    return groups.argsort(kind="stable").astype(np.int64)
