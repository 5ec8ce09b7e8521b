from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.tensors import TensorSpec, named, non_finite_count, refuse

FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2]


def test_a_spec_knows_its_size() -> None:
    spec = TensorSpec((3, 5), np.dtype(np.float16))
    assert (spec.size, spec.nbytes) == (15, 30)
    assert TensorSpec((), np.dtype(np.float32)).nbytes == 4
    assert TensorSpec((0, 7), np.dtype(np.float32)).nbytes == 0


@pytest.mark.parametrize("dtype", FLOATS)
def test_counts_every_nan_and_infinity(dtype: type) -> None:
    values = np.ones((7, 5), dtype)
    values[0, 0], values[3, 4], values[6, 4] = np.nan, np.inf, -np.inf
    assert non_finite_count(values) == 3


@pytest.mark.parametrize("dtype", FLOATS)
def test_takes_the_largest_and_smallest_numbers_for_finite(dtype: type) -> None:
    limits = ml_dtypes.finfo(dtype)
    extremes = [limits.max, limits.min, limits.tiny, limits.smallest_subnormal, 0.0, -0.0]
    assert non_finite_count(np.array(extremes, dtype)) == 0


def test_counts_in_arrays_longer_than_one_block() -> None:
    values = np.zeros((3 << 20) + 1, np.float16)
    values[[0, 1 << 20, -1]] = np.nan
    assert non_finite_count(values) == 3


def test_integers_and_empty_arrays_are_finite() -> None:
    assert non_finite_count(np.arange(5)) == 0
    assert non_finite_count(np.zeros((0, 3), np.float32)) == 0


def test_names_the_first_and_counts_the_rest() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named(["a", "b", "c", "d"], limit=2) == "a, b and 2 more"


def test_tells_all_problems_in_one_error() -> None:
    refuse(Path("fine"), [], "")
    with pytest.raises(
        CheckpointError, match=r"f is damaged: p0; .*p9; and 2 more problems\. Mend"
    ):
        refuse(Path("f"), [f"p{number}" for number in range(12)], "Mend it.")
