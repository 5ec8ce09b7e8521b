from __future__ import annotations

from typing import Any

import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.compressed_tensors_config import Settings, read_settings
from castline.exporters.readers.stored import StoredActivations

Fields = dict[str, Any]


def weights(**changes: Any) -> Fields:
    stated = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
    return stated | {"group_size": 128} | changes


def settings(*groups: Fields, **changes: Any) -> Settings:
    fields = {"format": "pack-quantized", "quantization_status": "compressed"}
    named_groups = {f"group_{nth}": group for nth, group in enumerate(groups)}
    return read_settings(fields | {"config_groups": named_groups} | changes)


def of_linears(**changes: Any) -> Fields:
    return {"targets": ["Linear"], "weights": weights()} | changes


def test_reads_a_group_with_all_that_it_states():
    group = settings(of_linears(weights=weights(symmetric=False, actorder="group"))).groups[0]
    assert group.targets == ("Linear",)
    assert group.layouts == ("packed",)
    assert group.activations is None
    stated = group.weights
    assert (stated.kind, stated.bits, stated.group_size) == ("integer", 4, 128)
    assert not stated.symmetric
    assert stated.has_order


@pytest.mark.parametrize(
    ("strategy", "group_size", "expected"),
    [
        ("tensor", None, "per-tensor"),
        ("channel", None, "per-channel"),
        ("group", 32, 32),
        (None, None, "per-tensor"),
        (None, -1, "per-channel"),
        (None, 64, 64),
    ],
)
def test_infers_a_strategy_that_is_not_stated(strategy, group_size, expected):
    stated = weights(strategy=strategy, group_size=group_size)
    assert settings(of_linears(weights=stated)).groups[0].weights.group_size == expected


@pytest.mark.parametrize(("actorder", "expected"), [
    ("group", True), ("dynamic", True), (True, True),
    ("weight", False), ("static", False), (None, False), (False, False),
])  # fmt: skip
def test_only_the_order_by_groups_moves_columns(actorder, expected):
    group = settings(of_linears(weights=weights(actorder=actorder))).groups[0]
    assert group.weights.has_order is expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (
            {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
            StoredActivations("integer", 8, per_token=True, dynamic=True, symmetric=True),
        ),
        (
            {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False},
            StoredActivations("float8", 8, per_token=False, dynamic=False, symmetric=True),
        ),
        (
            {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": False},
            StoredActivations("integer", 8, per_token=False, dynamic=False, symmetric=False),
        ),
    ],
)
def test_reads_how_activations_are_quantized(stated, expected):
    assert settings(of_linears(input_activations=stated)).groups[0].activations == expected


def test_a_name_goes_before_a_pattern_and_a_pattern_before_a_class():
    found = settings(
        of_linears(),
        of_linears(targets=["re:.*down_proj$"]),
        of_linears(targets=["model.layers.3.mlp.down_proj"]),
    )
    chosen = {
        module: found.group_of(f"model.layers.{module}")
        for module in ("3.mlp.down_proj", "2.mlp.down_proj", "2.mlp.up_proj")
    }
    assert [group and group.name for group in chosen.values()] == ["group_2", "group_1", "group_0"]


def test_tells_the_classes_linear_and_embedding_apart_by_name():
    found = settings(of_linears(), of_linears(targets=["Embedding"]))
    embedding, head = found.group_of("model.embed_tokens"), found.group_of("lm_head")
    assert [group and group.name for group in (embedding, head)] == ["group_1", "group_0"]


def test_ignores_by_name_and_by_pattern_from_the_beginning_of_a_name():
    found = settings(of_linears(), ignore=["lm_head", "re:model.visual", "re:.*gate$"])
    ignored = ["lm_head", "model.visual.blocks.0.fc1", "model.layers.0.mlp.gate"]
    assert [found.group_of(module) for module in ignored] == [None] * 3
    kept = ["x.lm_head", "my.model.visual", "model.layers.0.mlp.gate_proj"]
    assert not any(found.ignores(module) for module in kept)


def test_groups_of_mixed_precision_have_their_own_formats():
    found = settings(
        of_linears(format="pack-quantized"),
        of_linears(
            targets=["lm_head"],
            format="float-quantized",
            weights={"num_bits": 8, "type": "float", "strategy": "channel"},
        ),
        format="mixed-precision",
    )
    assert [group.layouts for group in found.groups] == [("packed",), ("float8",)]


@pytest.mark.parametrize("name", ["nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized",
                                  "marlin-24", "dense", None])  # fmt: skip
def test_refuses_other_formats_by_name(name):
    with pytest.raises(CheckpointError, match=rf"the format {name} is not supported.*pack-quantiz"):
        settings(of_linears(), format=name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantization_status": "frozen"}, "quantization_status is frozen, expected compressed"),
        ({"transform_config": {"config_groups": {"u": {}}}}, r"transform_config .* \(Hadamard\)"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "as sparse-24-bitmask"),
        ({"moe_sparsity_config": {"method": "prune"}}, "moe_sparsity_config leaves experts out"),
        ({"config_groups": {}}, "config_groups names no modules"),
        ({"config_groups": {"W4A16": ["Linear"]}}, r"config_groups\.W4A16 is a preset by its name"),
        ({"ignore": ["re:("]}, r"'re:\(' is no pattern"),
        ({"ignore": "lm_head"}, "ignore is 'lm_head', expected a list"),
    ],
)
def test_refuses_settings_that_change_what_codes_mean(changes, said):
    with pytest.raises(CheckpointError, match=said):
        settings(of_linears(), **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": None}, "quantizes no weights"),
        ({"targets": "Linear"}, r"targets is 'Linear', expected a list"),
        ({"output_activations": {"num_bits": 8}}, "output_activations are not supported"),
        ({"weights": weights(strategy="block")}, r"weights\.strategy block is not supported"),
        ({"weights": weights(strategy="tensor_group")}, "strategy tensor_group is not supported"),
        ({"weights": weights(group_size=0)}, r"weights\.group_size is 0, expected 1 or more"),
        ({"weights": weights(num_bits=4, type="float")}, "type float of 4 bits"),
        ({"weights": weights(num_bits=1)}, "type int of 1 bits"),
        ({"weights": weights(dynamic=True)}, r"weights\.dynamic is True, expected false"),
        (
            {"weights": weights(num_bits=8, type="float", symmetric=False)},
            r"weights\.symmetric is false, expected true for float",
        ),
        ({"input_activations": {"strategy": "group", "dynamic": True}}, "strategy group with dyna"),
        (
            {"input_activations": {"strategy": "token", "dynamic": False}},
            "token with dynamic False",
        ),
        ({"input_activations": {"strategy": "tensor", "dynamic": "local"}}, "with dynamic local"),
    ],
)
def test_refuses_a_group_that_cannot_be_carried_by_its_name(changes, said):
    with pytest.raises(CheckpointError, match=rf"config_groups\.group_0.*{said}"):
        settings(of_linears(**changes))


def test_tells_all_problems_at_once():
    with pytest.raises(CheckpointError) as caught:
        settings(
            of_linears(weights=weights(strategy="block")),
            of_linears(weights=weights(num_bits=16)),
            quantization_status="initialized",
        )
    assert all(each in str(caught.value) for each in ("block", "16 bits", "initialized"))


def test_says_nothing_of_what_leaves_the_weights_alone():
    settings(
        of_linears(),
        kv_cache_scheme={"num_bits": 8, "type": "float"},
        sparsity_config={"format": "dense"},
        transform_config={},
        global_compression_ratio=1.5,
        version="0.13.0",
    )
