"""Attention of torch reads what codes stand for, token by token and head by head."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from castline.compiler.quant.scheme import ActivationScheme
from castline.compiler.search.attention_reads import attention_reading
from castline.compiler.search.fake_quantization import fake_quantized_activations

SCHEME = ActivationScheme(3, "per-token", dynamic=True, symmetric=False)


def parts() -> tuple[torch.Tensor, ...]:
    """Return query, key and value of 2 heads, 5 tokens and 4 values each; keys are large."""
    chance = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 4, generator=chance) for _ in range(3))
    return query, 10 * key, value


def test_each_part_is_quantized_by_token_and_head() -> None:
    rounded = [
        torch.stack(
            [fake_quantized_activations(token, SCHEME) for token in part.reshape(-1, 4)]
        ).reshape(part.shape)
        for part in parts()
    ]
    expected = F.scaled_dot_product_attention(*rounded, is_causal=True)
    with attention_reading(SCHEME):
        found = F.scaled_dot_product_attention(*parts(), is_causal=True)
    assert torch.equal(found, expected)


def test_nothing_is_asked_for_and_nothing_changes() -> None:
    expected = F.scaled_dot_product_attention(*parts())
    with attention_reading(None):
        assert torch.equal(F.scaled_dot_product_attention(*parts()), expected)


def test_gradients_pass_as_if_nothing_was_rounded() -> None:
    query, key, value = parts()
    value.requires_grad_()
    with attention_reading(SCHEME):
        F.scaled_dot_product_attention(query, key, value).sum().backward()
    assert value.grad is not None
    torch.testing.assert_close(value.grad.sum(), torch.tensor(2 * 5 * 4.0))
