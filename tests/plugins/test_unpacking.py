"""The nodes that unpack do what packing.py does in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from castline.plugins.op import PluginOp
from castline.plugins.packing import pack, pack_scales
from castline.plugins.unpacking import WEIGHTS, of_groups

Run = Callable[..., list[np.ndarray]]
OPS = {
    bits: PluginOp(
        name=f"Unpack{bits}",
        inputs=("packed", "x"),
        outputs=("codes", "y"),
        attributes=("k", "n"),
        body=f"{WEIGHTS[bits]}{of_groups('x')} codes = Cast <to = 3> (weight_codes)\n"
        "y = Identity (x_of_groups)",
    )
    for bits in (4, 8)
}


@pytest.mark.parametrize("bits", [4, 8])
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    n=st.integers(1, 50), k=st.integers(1, 200), groups=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_what_was_packed_comes_back(
    run_op: Run, bits: int, n: int, k: int, groups: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(-(1 << bits - 1), 1 << bits - 1, (n, k)).astype(np.int8)
    scales = random.standard_normal((n, groups)).astype(np.float16)
    found = run_op(OPS[bits], pack(codes, bits), pack_scales(scales), k=k, n=n)
    np.testing.assert_array_equal(found[0], codes.T, strict=True)
    np.testing.assert_array_equal(found[1], scales.T, strict=True)
