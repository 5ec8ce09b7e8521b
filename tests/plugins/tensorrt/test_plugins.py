"""What the plugin classes answer to TensorRT's questions; expected shapes are counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from castline.plugins.catalogue import PLUGINS
from castline.plugins.library import Library
from castline.plugins.sources import source_hash

pytestmark = pytest.mark.tensorrt

# k = 64 is one block of 64; n = 32 is two strips of 16; groups of 32 are two.
GROUPED = {"k": 64, "n": 32, "block_size": 32, "layout_version": 1}
WHOLE = {"k": 64, "n": 32, "layout_version": 1}
BITS = {"bits": 8}
PACKED_4 = "int8:2,1,512"
PACKED_8 = "int8:2,1,1024"
GATHERING = ("int32:64", "float:64", "int32:3", "int32:3", "float:3")

TAKEN: dict[str, tuple[dict[str, int], tuple[str, ...]]] = {
    "PackedLinearW4A16": (
        GROUPED,
        ("half:5,64", PACKED_4, "half:2,2,16", "int8:2,2,16", "half:32", "half:5,32"),
    ),
    "PackedLinearW4A16Offsets": (
        GROUPED,
        ("bf16:1,5,64", PACKED_4, "bf16:2,2,16", "float:2,2,16", "bf16:32", "bf16:1,5,32"),
    ),
    "PackedLinearW8A8": (
        WHOLE,
        ("int8:5,64", "float:5,1", PACKED_8, "half:32", "half:32", "half:5,32"),
    ),
    "PackedLinearW8A8Asymmetric": (
        WHOLE,
        (
            *("int8:5,64", "float:5,1", "int8:5,1", PACKED_8, "bf16:32", "int32:32"),
            *("bf16:32", "bf16:5,32"),
        ),
    ),
    "PackedLinearW4A8": (
        WHOLE,
        ("int8:5,64", "float:5,1", PACKED_4, "half:32", "int8:32", "half:32", "half:5,32"),
    ),
    "PackedLinearW4A8Groups": (
        GROUPED,
        ("int8:5,64", "float:5,1", PACKED_4, "int8:2,2,16", "half:32", "half:32", "half:5,32"),
    ),
    "PackedLinearW4A8GroupsAsymmetric": (
        GROUPED,
        (
            *("int8:5,64", "float:5,1", "int8:5,1", PACKED_4, "int8:2,2,16", "bf16:32"),
            *("int32:32", "bf16:32", "bf16:5,32"),
        ),
    ),
    "PackedLinearW4A4Asymmetric": (
        WHOLE,
        (
            *("int8:1,5,64", "float:1,5,1", "int8:1,5,1", PACKED_4, "half:32", "int8:32"),
            *("int32:32", "half:32", "half:1,5,32"),
        ),
    ),
    "QuantizePerToken": (BITS, ("half:5,64", "int8:5,64", "float:5,1")),
    "QuantizePerTokenAsymmetric": (BITS, ("bf16:5,64", "int8:5,64", "float:5,1", "int8:5,1")),
    "ReassembleChannels": ({}, ("half:5,64", *GATHERING, "half:5,64")),
    "ReassembleAndQuantize": (BITS, ("half:5,64", *GATHERING, "int8:5,64", "float:5,1")),
    "ReassembleAndQuantizeAsymmetric": (
        BITS,
        ("half:5,64", *GATHERING, "int8:5,64", "float:5,1", "int8:5,1"),
    ),
}
TAKEN["PackedLinearW4A8Asymmetric"] = TAKEN["PackedLinearW4A4Asymmetric"]
TAKEN["PackedLinearW4A4"] = TAKEN["PackedLinearW4A8"]

Ask = Callable[..., Any]


def test_every_op_of_the_library_is_tried_here(plugin_library: Library) -> None:
    assert sorted(TAKEN) == sorted(plugin_library.ops)


def test_tensorrt_and_onnx_have_every_op_with_the_same_attributes(
    plugin_library: Library, trt: Any
) -> None:
    registry = trt.get_plugin_registry()
    creators = {op: registry.get_creator(op, "1", "") for op in plugin_library.ops}
    fields = {op: {field.name for field in creators[op].field_names} for op in creators}
    assert fields == {op: set(given) for op, (given, _) in TAKEN.items()}
    assert {op.name: set(op.attributes) for op in PLUGINS}.items() <= fields.items()


@pytest.mark.parametrize("op", TAKEN)
def test_takes_its_types_and_shapes_in_rows_and_no_others(op: str, ask: Ask) -> None:
    fields, tensors = TAKEN[op]
    answers = ask(op, *tensors, **fields)
    assert answers.said["formats"] == "1" * len(tensors)
    assert answers.said["vectorized"] == "0" * len(tensors)
    assert answers.said["configured"] == "1", answers.reasons
    for place, tensor in enumerate(tensors):
        other = "int64:" + tensor.split(":")[1]
        changed = ask(op, *tensors[:place], other, *tensors[place + 1 :], **fields)
        assert changed.said["formats"][place] == "0"


@pytest.mark.parametrize("op", TAKEN)
def test_fields_go_into_the_engine_and_back_and_into_clones(op: str, ask: Ask) -> None:
    fields, tensors = TAKEN[op]
    said = ask(op, *tensors, **fields).said
    words = ", ".join(f"{name}={value}" for name, value in fields.items())
    assert {said[name] for name in ("fields", "from_engine", "clone")} == {words}
    assert said["timing"] == f"{words} {source_hash()}"  # timings of other kernels are of no use
    assert said["name"] == f"{op} 1 ''"


def test_activations_of_one_op_have_one_type(ask: Ask) -> None:
    fields, tensors = TAKEN["PackedLinearW4A16"]
    mixed = [tensor.replace("half:32", "bf16:32") for tensor in tensors]
    assert ask("PackedLinearW4A16", *mixed, **fields).said["formats"] == "111101"


def test_products_advertise_tactics_and_clones_keep_them(ask: Ask) -> None:
    fields, tensors = TAKEN["PackedLinearW8A8"]
    said = ask("PackedLinearW8A8", *tensors, **fields).said
    tactics = [int(tactic) for tactic in said["tactics"].split()]
    assert len(set(tactics)) == len(tactics) == int(said["clone_tactics"])
    assert min(tactics) > 0


def test_a_split_product_asks_for_workspace(ask: Ask) -> None:
    small, _ = TAKEN["PackedLinearW4A16"]
    tensors = ("half:1,4096", "int8:1,64,512", "half:1,128,16", "int8:1,128,16", "half:16")
    said = ask("PackedLinearW4A16", *tensors, "half:1,16", **{**small, "k": 4096, "n": 16}).said
    assert int(said["workspace"]) > 0


@pytest.mark.parametrize(
    ("op", "change", "reason"),
    [
        ("PackedLinearW4A16", {"layout_version": 9}, "reads the packed layout 1; use the library"),
        ("PackedLinearW4A16", {"k": 72}, "k must be a multiple of 16"),
        ("PackedLinearW4A16", {"n": 0}, "n and k must be 1 or more"),
        ("PackedLinearW4A16", {"block_size": 48}, "block_size must be 32, 64, 128"),
        ("PackedLinearW8A8", {"k": 2**33}, "attribute k, a whole number of 32 bits"),
        ("QuantizePerToken", {"bits": 9}, "bits must be 2 to 8"),
    ],
)
def test_refuses_attributes_with_the_reason(
    op: str, change: dict[str, int], reason: str, ask: Ask
) -> None:
    answers = ask(op, **{**TAKEN[op][0], **change})
    assert answers.said == {"created": "0"}
    assert f"castline: {op}" in answers.reasons
    assert reason in answers.reasons


def test_an_absent_attribute_is_named(ask: Ask) -> None:
    assert "needs the attribute bits" in ask("QuantizePerToken").reasons


@pytest.mark.parametrize(
    ("op", "place", "tensor", "reason"),
    [
        ("PackedLinearW4A16", 1, "int8:2,2,512", "packed is [2, 2, 512], expected [2, 1, 512]"),
        ("PackedLinearW4A16", 0, "half:5,32", "x is [5, 32], expected [(batch,) tokens, 64]"),
        ("PackedLinearW4A16", 0, "half:64", "x is [64], expected rank 2 or 3"),
        ("PackedLinearW8A8", 1, "float:1,5,1", "scale is [1, 5, 1], expected [(batch,) tokens, 1]"),
        ("QuantizePerToken", 0, "half:5,60", "x has 60 channels, expected a multiple of 16"),
        ("QuantizePerToken", 0, "half:5,53248", "x has 53248 channels, expected 32768 at most"),
        ("ReassembleChannels", 1, "int32:32", "gather is [32], expected [64]"),
        ("ReassembleChannels", 4, "int32:2", "channel is [2], expected [3]"),
        ("ReassembleChannels", 3, "int32:0", "place is [0], expected [1 or more]"),
    ],
)
def test_refuses_shapes_with_the_reason(
    op: str, place: int, tensor: str, reason: str, ask: Ask
) -> None:
    fields, tensors = TAKEN[op]
    answers = ask(op, *tensors[:place], tensor, *tensors[place + 1 :], **fields)
    assert answers.said["configured"] == "0"
    assert reason in answers.reasons


@pytest.mark.parametrize(
    ("channels", "added"), [(16, 32), (32768, 16385)], ids=["more than there are", "too many"]
)
def test_refuses_more_added_channels_than_a_block_holds(
    channels: int, added: int, ask: Ask
) -> None:
    x = f"half:5,{channels}"
    of_added = (f"int32:{added}", f"int32:{added}", f"float:{added}")
    answers = ask("ReassembleChannels", x, f"int32:{channels}", f"float:{channels}", *of_added, x)
    assert answers.said["configured"] == "0"
    assert f"{added} channels are added to {channels}, expected no more than" in answers.reasons
