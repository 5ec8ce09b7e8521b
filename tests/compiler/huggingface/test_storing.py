"""All linears of a model are stored so that transformers and vLLM load them."""

from __future__ import annotations

import numpy as np
import pytest

from castline.compiler.huggingface.packed_linear import PackedLinear
from castline.compiler.huggingface.storing import stored_linears
from castline.compiler.quant.scheme import WeightScheme
from castline.errors import TargetError
from castline.exporters.readers.tensors import TensorSpec

FLOAT32 = np.dtype(np.float32)


def stored(
    scheme: WeightScheme, *, one_way: bool = False, **widths: int
) -> dict[str, PackedLinear]:
    tensors = {f"{name}.weight": TensorSpec((8, k), FLOAT32) for name, k in widths.items()}
    return stored_linears(dict.fromkeys(tensors, scheme), tensors, FLOAT32, one_way=one_way)


def test_a_linear_is_called_by_its_module_and_has_the_group_that_divides_k() -> None:
    found = stored(WeightScheme(4, 128, True), up=256, down=192)
    assert {name: (one.module, one.k, one.group) for name, one in found.items()} == {
        "up.weight": ("up", 256, 128),
        "down.weight": ("down", 192, 64),
    }


def test_in_one_way_all_have_the_smallest_group() -> None:
    found = stored(WeightScheme(4, 128, False), one_way=True, up=256, down=192)
    assert [one.group for one in found.values()] == [64, 64]


def test_fewer_bits_are_stored_in_four_or_eight() -> None:
    assert [stored(WeightScheme(bits, 32, True), up=64)["up.weight"].bits for bits in (3, 4, 6)] \
        == [4, 4, 8]  # fmt: skip


def test_groups_beside_a_scale_per_channel_are_no_one_way() -> None:
    with pytest.raises(TargetError, match=r"groups: 32, per-channel.*weights.symmetric=true"):
        stored(WeightScheme(4, 32, False), one_way=True, up=64, down=40)
    assert stored(WeightScheme(4, 32, True), up=64, down=40)["down.weight"].group == "per-channel"


def test_rows_that_end_within_a_word_are_refused() -> None:
    with pytest.raises(TargetError, match=r"down.weight: K = 100 codes of a row do not fill"):
        stored(WeightScheme(4, 32, True), up=64, down=100)
    assert stored(WeightScheme(8, 32, True), down=100)["down.weight"].bits == 8
