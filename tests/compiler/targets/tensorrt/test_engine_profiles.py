"""Choose the optimization profiles of an engine: the user's, or one for each phase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.engine_profiles import accepted, engine_profiles
from castline.compiler.targets.tensorrt.shape_flags import Shapes, shape_sets
from castline.compiler.targets.tensorrt.sizes import Sizes

SaveAttention = Callable[..., Path]


def test_the_largest_sizes_make_a_profile_for_each_phase(save_attention: SaveAttention) -> None:
    options = EngineOptions(Sizes(max_batch_size=2, max_input_len=16, max_seq_len=33))
    prefill, decode = engine_profiles(save_attention(), options, 64)
    assert prefill["inputs_embeds"].max == (2, 16, 128)
    assert decode["inputs_embeds"].max == (2, 1, 128)
    assert decode["past_key_values.0.key"].max == (2, 2, 32, 64)
    assert accepted((prefill, decode)) == "batch 1 to 2, sequence 1 to 16, past 0 to 32"


def test_explicit_shapes_are_the_profiles_there_are(save_attention: SaveAttention) -> None:
    shapes = shape_sets(
        ["inputs_embeds:1x1x128,past_key_values.0.key:1x2x0x64"],
        [],
        ["inputs_embeds:1x8x128,past_key_values.0.key:1x2x24x64"],
    )
    (only,) = engine_profiles(save_attention(), EngineOptions(shapes=shapes), 64)
    assert only["past_key_values.0.value"] == Shapes((1, 2, 0, 64), (1, 2, 24, 64), (1, 2, 24, 64))
    assert accepted((only,)) == "batch 1, sequence 1 to 8, past 0 to 24"


def test_an_encoder_reads_many_texts_at_once(encoder: Any) -> None:
    (only,) = engine_profiles(encoder.graph, EngineOptions(), 64)
    assert set(only) == {"input_ids", "attention_mask", "token_type_ids"}
    assert set(only.values()) == {Shapes((1, 1), (8, 64), (32, 64))}
    assert accepted((only,)) == "batch 1 to 32, sequence 1 to 64"


def test_a_fixed_cache_has_one_size_of_past() -> None:
    past = Shapes(*[(1, 2, 4096, 64)] * 3)
    ids = Shapes((1, 1), (1, 1), (1, 512))
    profile = {"input_ids": ids, "past_key_values.0.key": past}
    assert accepted((profile,)) == "batch 1, sequence 1 to 512, past 4096"
