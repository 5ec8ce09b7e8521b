"""A block is the same after it was written as strict JSON and arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import safetensors.numpy

from castline.compiler.plan.codec import decoded, encoded
from castline.compiler.plan.decisions import PlannedBlock
from castline.compiler.quant.channel_map import identity


def round_trip(block: PlannedBlock) -> PlannedBlock:
    written, arrays = encoded(block)
    text = json.dumps(written, allow_nan=False)
    return decoded(json.loads(text), safetensors.numpy.load(safetensors.numpy.save(arrays)))


def require_equal(found: object, expected: object) -> None:
    """Compare field by field: dataclasses with arrays have no == of their own."""
    assert type(found) is type(expected)
    for field in fields(expected):  # type: ignore[arg-type]
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        elif is_dataclass(theirs):
            require_equal(ours, theirs)
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("cache", [True, False])
def test_a_block_round_trips(block: Callable[..., PlannedBlock], cache: bool) -> None:
    expected = block(3, cache=cache)
    found = round_trip(expected)
    assert (found.index, found.name) == (3, "model.layers.3")
    assert found.linears == expected.linears
    assert len(found.sites) == len(expected.sites)
    for ours, theirs in zip(found.sites, expected.sites, strict=True):
        require_equal(ours, theirs)
    assert found.correction == expected.correction
    assert (found.cache is None) == (not cache)
    if cache:
        require_equal(found.cache, expected.cache)


def test_an_infinite_ratio_is_a_word_in_the_json(block: Callable[..., PlannedBlock]) -> None:
    written, _ = encoded(block())
    assert written["linears"][1]["output_sqnr"] == "inf"
    assert round_trip(block()).linears[1].output_sqnr == math.inf


def test_the_json_says_what_a_person_asks_and_no_arrays(
    block: Callable[..., PlannedBlock],
) -> None:
    written, arrays = encoded(block())
    assert written["sites"][0]["alpha"] == 0.55
    assert written["linears"][0]["weights"]["range"]["method"] == "mse"
    assert not {"peaks", "scale"} & written["sites"][0].keys()
    assert written["sites"][0]["reassembly"] == {
        "linears": ("model.layers.0.q.weight",),
        "threshold": 1 / 3,
        "metric": "merge-error",
        "error": 0.1,
        "error_before": 0.1 + 0.2,
        "inspected": "self_attn",
    }
    assert written["correction"]["loss_merged"] == 0.2
    site = written["sites"][0]["site"]
    assert set(arrays) == {
        *(f"{site}:{part}" for part in ("peaks", "weight_peaks", "scale", "channel_scale")),
        *(f"{site}:reassembly.{part}" for part in ("gather", "scale", "place", "channel")),
        f"{site}:reassembly.channel_scale",
        *(f"{written['sites'][1]['site']}:{part}" for part in ("peaks", "weight_peaks")),
        "cache:key",
        "cache:value",
    }


def test_a_block_without_linears_round_trips() -> None:
    found = round_trip(PlannedBlock(0, "model.layers.0", (), (), None))
    assert (found.linears, found.sites, found.cache) == ((), (), None)


def test_a_map_without_merged_channels_round_trips(block: Callable[..., PlannedBlock]) -> None:
    whole = block()
    reassembly = whole.sites[0].reassembly
    assert reassembly is not None
    site = replace(whole.sites[0], reassembly=replace(reassembly, channels=identity(4)))
    found = round_trip(replace(whole, sites=(site,), correction=None))
    require_equal(found.sites[0], site)
    assert found.correction is None


@pytest.mark.parametrize("missing", ["linears", "block", "correction"])
def test_what_is_no_block_is_an_error(block: Callable[..., PlannedBlock], missing: str) -> None:
    written, arrays = encoded(block())
    del written[missing]
    with pytest.raises(KeyError):
        decoded(written, arrays)


def test_a_field_of_a_later_version_is_an_error(block: Callable[..., PlannedBlock]) -> None:
    written, arrays = encoded(block())
    written["linears"][0]["rotation"] = 1
    with pytest.raises(TypeError):
        decoded(written, arrays)
