"""Complete the shapes that a user gives input by input, and hold them against the model."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from castline.compiler.targets.tensorrt.explicit_shapes import explicit_shapes
from castline.compiler.targets.tensorrt.shape_flags import Shapes, ShapeSet
from castline.errors import TargetError

MODEL = Path("model.onnx")
IDS = Shapes((1, 1), (1, 32), (2, 64))


def value(name: str, *shape: int | str) -> ir.Value:
    return ir.val(name, dtype=ir.DataType.INT64, shape=shape)


DECODER = (
    value("input_ids", "batch", "sequence"),
    value("attention_mask", "batch", "total"),
    value("past_key_values.0.key", "batch", 3, "past", 16),
)


def test_the_cache_follows_from_the_mask() -> None:
    mask = Shapes((1, 1), (1, 96), (2, 128))
    shapes = explicit_shapes(DECODER, {"input_ids": IDS, "attention_mask": mask}, MODEL)
    assert shapes["past_key_values.0.key"] == Shapes((1, 3, 0, 16), (1, 3, 64, 16), (2, 3, 64, 16))
    assert (shapes["input_ids"], shapes["attention_mask"]) == (IDS, mask)


def test_the_mask_follows_from_a_cache() -> None:
    past = Shapes((1, 3, 0, 16), (1, 3, 8, 16), (2, 3, 16, 16))
    shapes = explicit_shapes(DECODER, {"input_ids": IDS, "past_key_values.0.key": past}, MODEL)
    assert shapes["attention_mask"] == Shapes((1, 1), (1, 40), (2, 80))


def test_an_encoder_needs_its_tokens_alone() -> None:
    inputs = (value("input_ids", "batch", "sequence"), value("attention_mask", "batch", "sequence"))
    assert explicit_shapes(inputs, {"input_ids": IDS}, MODEL)["attention_mask"] == IDS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ids": IDS}, "ids: the model has no such input, but input_ids, attention_mask, past"),
        ({"input_ids": Shapes((1,), (1,), (1,))}, "it has 2 dimensions, 1 were given"),
        (
            {"past_key_values.0.key": Shapes((1, 3, 0, 8), (1, 3, 0, 8), (1, 3, 9, 8))},
            "past_key_values.0.key: dimension 3 is fixed at 16, 8 was given",
        ),
        ({"input_ids": IDS}, "the length of the cache is missing; name attention_mask"),
        ({"attention_mask": IDS}, "the shapes of input_ids are missing"),
        (
            {"input_ids": IDS, "attention_mask": Shapes((1, 1), (1, 96), (4, 128))},
            "input_ids has batch (1, 1, 2), attention_mask has (1, 1, 4)",
        ),
        (
            {"input_ids": IDS, "attention_mask": Shapes((1, 1), (1, 16), (2, 128))},
            "past = (0, -16, 64)",
        ),
    ],
)
def test_what_contradicts_the_model_is_named(given: ShapeSet, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        explicit_shapes(DECODER, given, MODEL)
    assert words in str(caught.value)
