from __future__ import annotations

from typing import Any

import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.modelopt_config import (
    ALGORITHMS,
    LayerSettings,
    Settings,
    read_settings,
    require_same,
)


def nested(algorithm: str | None = "W4A16_AWQ", **changes: Any) -> Settings:
    own = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    return read_settings({"producer": {"name": "modelopt"}, "quantization": own | changes})


def flat(algorithm: str | None = "W4A16_AWQ", **changes: Any) -> Settings:
    fields = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head"]}
    return read_settings(fields | changes)


def test_reads_the_nested_and_the_flat_form_alike():
    groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 64}}}
    assert nested(group_size=64) == flat(config_groups=groups)
    assert nested(group_size=64).of_module("model.layers.0.up") == LayerSettings("W4A16_AWQ", 64)


def test_the_group_size_of_the_flat_form_may_be_absent():
    assert flat().group_size is None


@pytest.mark.parametrize(
    ("module", "excluded"),
    [("lm_head", True), ("model.visual.blocks.0", True), ("model.layers.0.mlp.gate", True),
     ("model.layers.0.mlp.gate_proj", False), ("my.lm_head", False)],
)  # fmt: skip
def test_excludes_modules_by_name_or_with_stars(module, excluded):
    settings = nested(exclude_modules=["lm_head", "model.visual*", "*.mlp.gate"])
    assert (settings.of_module(module) is None) is excluded


def test_layers_of_a_mixed_model_have_their_own_algorithm():
    layers = {"up": {"quant_algo": "FP8"}, "down": {"quant_algo": "W4A16_AWQ", "group_size": 128}}
    settings = nested("MIXED_PRECISION", quantized_layers=layers)
    assert settings.of_module("up") == LayerSettings("FP8", None)
    assert settings.of_module("down") == LayerSettings("W4A16_AWQ", 128)
    assert settings.of_module("other") is None
    assert settings.layers == flat("MIXED_PRECISION", quantized_layers=layers).layers


@pytest.mark.parametrize("name", ["NVFP4", "W4A8_AWQ", "MXFP8", "NVFP4_AWQ", "FP8_PB_WO"])
def test_refuses_other_algorithms_by_name(name):
    for form in (nested, flat):
        with pytest.raises(CheckpointError, match=rf"quant_algo {name} is unsupported.*W4A16_AWQ"):
            form(name)
    layers = {"up": {"quant_algo": name}, "down": {"quant_algo": "FP8"}}
    with pytest.raises(CheckpointError, match=rf"quant_algo {name} is unsupported"):
        nested("MIXED_PRECISION", quantized_layers=layers)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_reads_every_algorithm_that_it_lists(name):
    assert nested(name).of_module("up") == LayerSettings(name, None)


@pytest.mark.parametrize(
    ("algorithm", "changes", "said"),
    [
        (None, {}, "states no quant_algo"),
        (None, {"kv_cache_quant_algo": "FP8"}, "key-value cache alone.*Take hf_quant_config"),
        ("MIXED_PRECISION", {}, "MIXED_PRECISION names no quantized_layers"),
        ("FP8", {"exclude_modules": "lm_head"}, "exclude_modules is 'lm_head', expected a list"),
        ("FP8", {"quantized_layers": ["up"]}, r"quantized_layers is \['up'\], expected an object"),
        ("W4A16_AWQ", {"has_zero_point": True}, "has_zero_point is true, expected false"),
    ],
)
def test_refuses_what_says_too_little_or_too_much(algorithm, changes, said):
    with pytest.raises(CheckpointError, match=said):
        nested(algorithm, **changes)


def test_both_forms_of_one_export_are_the_same():
    require_same(nested(group_size=128), flat())
    require_same(
        nested(exclude_modules=["a", "b"], kv_cache_quant_algo="FP8"), flat(ignore=["b", "a"])
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": "FP8"}, "algorithm: W4A16_AWQ and FP8"),
        ({"ignore": []}, r"excluded: \['lm_head'\] and \[\]"),
        (
            {"config_groups": {"g": {"weights": {"group_size": 64}}}},
            "group_size: 128 and 64",
        ),
    ],
)
def test_says_what_the_two_forms_differ_in(changes, said):
    with pytest.raises(CheckpointError, match=said):
        require_same(nested(group_size=128), flat(**changes))
