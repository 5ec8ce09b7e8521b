"""What plugins do not multiply is said with the reason."""

from __future__ import annotations

import re

import onnx_ir as ir
import pytest

from castline.compiler.passes.plugin_limits import (
    misfit,
    rank_misfit,
    reassembly_misfit,
    width_misfit,
)

HALF = ir.DataType.FLOAT16


@pytest.mark.parametrize(
    ("k", "group"), [(64, 32), (576, 64), (48, 48), (4096, 4096), (96, 96), (4096, 128)]
)
@pytest.mark.parametrize("dtype", [HALF, ir.DataType.BFLOAT16])
def test_powers_of_two_and_whole_channels_fit(k: int, group: int, dtype: ir.DataType) -> None:
    assert misfit(k, group, dtype) is None


@pytest.mark.parametrize(
    ("k", "group", "dtype", "reason"),
    [
        (64, 32, ir.DataType.FLOAT, "it computes in float, .* use --dtype float16"),
        (64, 32, None, "it computes in an unknown type"),
        (40, 40, HALF, "its input dimension 40 is no multiple of 16"),
        (192, 96, HALF, "it has groups of 96, and plugins take 32, 64, 128"),
        (64, 16, HALF, "it has groups of 16, and plugins take 32"),
    ],
)
def test_others_do_not(k: int, group: int, dtype: ir.DataType | None, reason: str) -> None:
    found = misfit(k, group, dtype)
    assert found is not None
    assert re.match(reason, found)


def test_values_have_two_or_three_axes() -> None:
    ranks = {
        rank: rank_misfit(ir.Value(name="x", shape=ir.Shape([2] * rank))) for rank in range(1, 5)
    }
    assert ranks[2] is ranks[3] is None
    assert ranks[4] == "what it reads has 4 axes, and plugins read 2 or 3"
    assert ranks[1] is not None
    assert rank_misfit(ir.Value(name="x")) is None, "TensorRT's parser will tell"


@pytest.mark.parametrize(
    ("k", "added", "fits"), [(32768, 16384, True), (32768, 16385, False), (8, 9, False)]
)
def test_added_channels_fit_beside_the_others(k: int, added: int, fits: bool) -> None:
    reason = reassembly_misfit(k, added)
    assert (reason is None) == fits
    assert fits or f"{added} channels are added to {k}" in str(reason)


def test_tokens_quantized_at_run_time_fit_a_block_of_threads() -> None:
    assert width_misfit(32768) is None
    assert width_misfit(53248) == (
        "tokens of 53248 channels are quantized at run time, and plugins take 32768"
    )
