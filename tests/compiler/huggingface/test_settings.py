"""The quantization_config says how each linear is stored, and our reader understands it."""

from __future__ import annotations

import numpy as np

from castline.compiler.huggingface.packed_linear import PackedLinear
from castline.compiler.huggingface.settings import quantization_config
from castline.compiler.quant.scheme import GroupSize
from castline.exporters.readers.compressed_tensors_config import read_settings


def linear(module: str, group: GroupSize, *, symmetric: bool = True, bits: int = 4) -> PackedLinear:
    return PackedLinear(module, 8, 64, bits, group, symmetric, np.dtype(np.float32))


def test_there_is_a_group_for_each_way_of_storing_with_its_modules_by_name() -> None:
    linears = [linear("a", 64), linear("b", 32), linear("c", 64), linear("d", "per-channel")]
    config = quantization_config(linears, ["lm_head"])
    assert isinstance(config["config_groups"], dict)
    groups = config["config_groups"].values()
    assert [(one["targets"], one["weights"]["group_size"]) for one in groups] == [
        (["a", "c"], 64),
        (["b"], 32),
        (["d"], None),
    ]
    assert config["ignore"] == ["lm_head"]
    assert "dequantize" not in config


def test_transformers_is_told_to_dequantize() -> None:
    assert quantization_config([linear("a", 64)], [], dequantize=True)["dequantize"] is True


def test_our_reader_finds_the_same_in_it() -> None:
    linears = [
        linear("a", 32),
        linear("b", "per-tensor", bits=8),
        linear("c", "per-channel", symmetric=False),
    ]
    settings = read_settings(quantization_config(linears, ["lm_head"]))
    for one in linears:
        group = settings.group_of(one.module)
        assert group is not None
        weights = group.weights
        assert (weights.bits, weights.group_size, weights.symmetric) == (
            one.bits,
            one.group,
            one.symmetric,
        )
    assert settings.group_of("lm_head") is None
