"""Choose the input shapes an engine accepts, and those it is tuned for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from castline.compiler.targets.tensorrt.profile import (
    Profile,
    Range,
    input_shapes,
    model_shapes,
    phase_shapes,
    phases,
)
from castline.compiler.targets.tensorrt.shape_flags import Shapes
from castline.errors import TargetError

MODEL = Path("model.onnx")
SMALL = Profile(batch=Range(1, 2, 4), sequence=Range(1, 3, 8), past=Range(0, 5, 16))


def value(name: str, *shape: int | str) -> ir.Value:
    return ir.val(name, dtype=ir.DataType.INT64, shape=shape)


def test_each_input_of_a_decoder_gets_its_shapes() -> None:
    shapes = input_shapes(
        [
            value("input_ids", "batch", "sequence"),
            value("attention_mask", "batch", "total"),
            value("past_key_values.11.key", "batch", 3, "past", 64),
        ],
        SMALL,
        MODEL,
    )
    assert shapes == {
        "input_ids": Shapes((1, 1), (2, 3), (4, 8)),
        "attention_mask": Shapes((1, 1), (2, 8), (4, 24)),
        "past_key_values.11.key": Shapes((1, 3, 0, 64), (2, 3, 5, 64), (4, 3, 16, 64)),
    }


def test_an_encoder_has_no_past(tmp_path: Path) -> None:
    ids, mask = (
        value("input_ids", "batch", "sequence"),
        value("attention_mask", "batch", "sequence"),
    )
    node = ir.node("Add", [ids, mask])
    graph = ir.Graph([ids, mask], node.outputs, nodes=[node], opset_imports={"": 23})
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    (shapes,) = model_shapes(tmp_path / "model.onnx", SMALL)
    assert shapes["attention_mask"] == shapes["input_ids"] == Shapes((1, 1), (2, 3), (4, 8))


def test_prefill_is_tuned_for_an_empty_cache_and_decode_for_one_token() -> None:
    prefill, decode = phases(SMALL, cached=True)
    assert prefill == Profile(SMALL.batch, SMALL.sequence, Range(0, 0, 16))
    assert decode == Profile(SMALL.batch, Range(1, 1, 1), SMALL.past)


@pytest.mark.parametrize(
    ("profile", "cached"),
    [
        (SMALL, False),
        (Profile(sequence=Range(2, 2, 8)), True),
        (Profile(sequence=Range(1, 1, 1)), True),
    ],
)
def test_there_is_one_phase_where_decode_is_no_case_of_its_own(
    profile: Profile, cached: bool
) -> None:
    assert phases(profile, cached=cached) == (profile,)


def test_a_saved_model_gets_one_mapping_for_each_phase(
    save_attention: Callable[..., Path], save_linear: Callable[..., Path]
) -> None:
    prefill, decode = model_shapes(save_attention(head=64), SMALL)
    assert prefill["inputs_embeds"].max == (4, 8, 128)
    assert decode["inputs_embeds"].max == (4, 1, 128)
    assert decode["past_key_values.0.value"].opt == (2, 2, 5, 64)
    assert len(model_shapes(save_linear(), SMALL)) == 1


def test_sizes_that_the_model_cannot_reach_are_clipped() -> None:
    assert Profile().clipped(256) == Profile(sequence=Range(1, 128, 256), past=Range(0, 255, 255))
    assert Profile().clipped(8192) == Profile()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"batch": Range(0, 1, 1)}, "batch"),
        ({"sequence": Range(4, 2, 8)}, "sequence"),
        ({"past": Range(0, 9, 8)}, "past"),
        ({"past": Range(-1, 0, 8)}, "past"),
    ],
)
def test_an_impossible_range_is_named(fields: dict[str, Range], named: str) -> None:
    with pytest.raises(TargetError, match=rf"{named} = \("):
        Profile(**fields)


def test_a_cache_of_fixed_capacity_has_that_size_in_every_phase() -> None:
    inputs = [
        value("input_ids", "batch", "sequence"),
        value("attention_mask", "batch", 64),
        value("write_indices", "batch"),
        value("past_key_values.0.key", "batch", 3, 64, 16),
    ]
    prefill, decode = phase_shapes(inputs, SMALL, MODEL)
    assert prefill["past_key_values.0.key"] == Shapes(
        (1, 3, 64, 16), (2, 3, 64, 16), (4, 3, 64, 16)
    )
    assert decode["attention_mask"] == Shapes((1, 64), (2, 64), (4, 64))
    assert decode["write_indices"] == Shapes((1,), (2,), (4,))
    assert decode["input_ids"].max == (4, 1)


def test_every_input_that_contradicts_the_profile_is_named() -> None:
    inputs = [
        value("input_ids", 1, "sequence"),
        value("attention_mask", "batch", "total"),
        value("token_type_ids", "batch", 2048),
    ]
    with pytest.raises(TargetError) as caught:
        input_shapes(inputs, SMALL, MODEL)
    message = str(caught.value)
    assert "input_ids: dimension 0 is fixed at 1, the profile asks for batch 1 to 4" in message
    assert "token_type_ids: dimension 1 is fixed at 2048" in message
    assert "attention_mask" not in message


def test_a_fixed_size_that_the_profile_shares_is_accepted() -> None:
    profile = Profile(batch=Range(1, 1, 1))
    shapes = input_shapes([value("input_ids", 1, "sequence")], profile, MODEL)
    assert shapes["input_ids"] == Shapes((1, 1), (1, 128), (1, 512))


def test_an_open_input_that_is_no_decoders_is_named() -> None:
    with pytest.raises(TargetError, match=r"pixel_values: dimension 0 is open"):
        input_shapes([value("pixel_values", "batch", 3)], SMALL, MODEL)
    fixed = input_shapes([value("pixel_values", 2, 3)], SMALL, MODEL)
    assert fixed["pixel_values"] == Shapes((2, 3), (2, 3), (2, 3))


def test_an_input_of_the_wrong_rank_is_named() -> None:
    with pytest.raises(TargetError, match=r"input_ids: it has 1 dimensions, expected 2"):
        input_shapes([value("input_ids", "tokens")], SMALL, MODEL)


def test_a_fixed_cache_says_its_capacity_and_takes_no_more_tokens() -> None:
    inputs = [
        value("input_ids", "batch", "sequence"),
        value("attention_mask", "batch", 6),
        value("write_indices", "batch"),
        value("past_key_values.0.key", "batch", 3, 6, 64),
    ]
    prefill, decode = phase_shapes(inputs, SMALL, MODEL)
    assert prefill == {
        "input_ids": Shapes((1, 1), (2, 3), (4, 6)),
        "attention_mask": Shapes((1, 6), (2, 6), (4, 6)),
        "write_indices": Shapes((1,), (2,), (4,)),
        "past_key_values.0.key": Shapes((1, 3, 6, 64), (2, 3, 6, 64), (4, 3, 6, 64)),
    }
    assert decode["input_ids"] == Shapes((1, 1), (2, 1), (4, 1))
