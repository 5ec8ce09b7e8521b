from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from castline.exporters.attention import (
    broadcasting_heads,
    finite_mask,
    grouped_attention,
    own_attention,
    use_exportable_attention,
)
from castline.exporters.skeleton import skeleton

BATCH, HEADS, KV_HEADS, NEW, TOTAL, WIDTH = 2, 6, 2, 3, 5, 4
HEAD_OF_QUERY = [0, 0, 0, 1, 1, 1]  # the key and value head that each query head reads

Array = np.ndarray


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    mask = torch.ones(BATCH, 1, NEW, TOTAL, dtype=torch.bool).tril(TOTAL - NEW)
    mask[0, :, :, :2] = False  # padding on the left
    return {
        "query": 3 * torch.randn(BATCH, HEADS, NEW, WIDTH, generator=random),
        "key": torch.randn(BATCH, KV_HEADS, TOTAL, WIDTH, generator=random),
        "value": torch.randn(BATCH, KV_HEADS, TOTAL, WIDTH, generator=random),
        "attention_mask": mask,
    }


def reference(
    inputs: dict[str, torch.Tensor],
    scale: float = WIDTH**-0.5,
    softcap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Return [batch, new, heads, width], one row of scores at a time."""
    query, key, value, mask = (tensor.numpy() for tensor in inputs.values())
    result = np.zeros((BATCH, NEW, HEADS, WIDTH))
    for b, h, t in np.ndindex(BATCH, HEADS, NEW):
        seen = mask[b, 0, t]
        scores = key[b, HEAD_OF_QUERY[h]][seen].astype(np.float64) @ query[b, h, t] * scale
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        weights = np.exp(scores)
        total = weights.sum() + (0 if sinks is None else np.exp(sinks[h]))
        result[b, t, h] = weights @ value[b, HEAD_OF_QUERY[h]][seen] / total
    return result


def attend(inputs: dict[str, torch.Tensor], **options: Any) -> Array:
    module = torch.nn.Module()
    module.num_key_value_groups = HEADS // KV_HEADS
    output, nothing = grouped_attention(module, **inputs, **options)
    assert nothing is None
    return np.asarray(output.numpy())


SINKS = np.linspace(-1, 3, HEADS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, {}),
        ({"scaling": 0.3}, {"scale": 0.3}),
        ({"softcap": 2.0}, {"softcap": 2.0}),
        ({"softcap": 2.0, "scaling": 0.3}, {"softcap": 2.0, "scale": 0.3}),
        ({"s_aux": torch.from_numpy(SINKS).float()}, {"sinks": SINKS}),
        (
            {"s_aux": torch.from_numpy(SINKS).float(), "softcap": 2.0},
            {"sinks": SINKS, "softcap": 2.0},
        ),
    ],
    ids=["plain", "scaled", "capped", "capped and scaled", "sinks", "capped with sinks"],
)
def test_equals_attention_by_hand(
    inputs: dict[str, torch.Tensor], options: dict[str, Any], words: dict[str, Any]
) -> None:
    found = attend(inputs, **options)
    np.testing.assert_allclose(found, reference(inputs, **words), atol=1e-5)


def test_the_mask_is_finite_in_float16_and_hides_what_is_padding_or_to_come() -> None:
    allowed = torch.tensor([[False, False, True, True], [True, True, True, True]])
    mask = finite_mask(batch_size=2, q_length=2, kv_length=4, q_offset=2, attention_mask=allowed)
    assert mask.shape == (2, 1, 2, 4)
    assert torch.isfinite(mask.half()).all()
    assert (mask == 0).tolist() == [
        [[[False, False, True, False], [False, False, True, True]]],
        [[[True, True, True, False], [True, True, True, True]]],
    ]
    assert torch.exp(mask[mask != 0]).max() == 0


def test_the_mask_is_there_even_if_it_hides_nothing() -> None:
    """A trace must not depend on the example's mask."""
    assert torch.equal(
        finite_mask(batch_size=1, q_length=1, kv_length=3, q_offset=2), torch.zeros(1, 1, 1, 3)
    )


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("llama", "castline_grouped"),
        ("gemma2", "castline_grouped"),
        ("bert", "castline_grouped"),
        ("falcon, ALiBi", "sdpa"),
        ("bloom", "castline_in_steps"),
    ],
)
def test_every_model_gets_an_attention_that_it_can_use(
    name: str, chosen: str, sample: Callable[[str], Any]
) -> None:
    model = skeleton(sample(name).config).model
    use_exportable_attention(model)
    parts = {module.config._attn_implementation for module in model.modules() if _has_one(module)}
    assert parts == {chosen}


def _has_one(module: torch.nn.Module) -> bool:
    return hasattr(module, "config")


@pytest.mark.parametrize(("name", "own"), [("llama", "sdpa"), ("bloom", "eager")])
def test_own_attention_is_the_one_that_transformers_takes(
    name: str, own: str, sample: Callable[[str], Any]
) -> None:
    model = sample(name).model
    assert own_attention(model) == own == model.config._attn_implementation


def test_one_key_head_serves_all_query_heads_while_tracing() -> None:
    random = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 3, 8, generator=random)
    key, value = torch.randn(2, 1, 1, 3, 8, generator=random)
    expected = functional.scaled_dot_product_attention(
        query, key.expand(1, 4, 3, 8), value.expand(1, 4, 3, 8)
    )
    with broadcasting_heads():
        found = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(found, expected)


def test_torch_has_its_own_attention_back_after_a_failure() -> None:
    before = functional.scaled_dot_product_attention
    with pytest.raises(ValueError, match="in between"), broadcasting_heads():
        raise ValueError("in between")
    assert functional.scaled_dot_product_attention is before
