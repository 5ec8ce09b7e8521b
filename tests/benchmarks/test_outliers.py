"""Check that planted outliers leave the function of a model as it was."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def logits_and_norms(model: LlamaForCausalLM) -> tuple[torch.Tensor, list[torch.Tensor]]:
    norms: list[torch.Tensor] = []
    handles = [
        norm.register_forward_hook(lambda _module, _inputs, output: norms.append(output))
        for layer in model.model.layers
        for norm in (layer.input_layernorm, layer.post_attention_layernorm)
    ]
    with torch.no_grad():
        logits = model(input_ids=torch.arange(20)[None]).logits
    for handle in handles:
        handle.remove()
    return logits, norms


def test_the_function_stays_the_same_to_the_bit() -> None:
    from outliers import plant_outliers

    model = small_llama()
    before, _ = logits_and_norms(model)
    plant_outliers(model, channels=3, factor=64.0)
    after, _ = logits_and_norms(model)
    assert torch.equal(before, after)


def test_every_norm_before_a_linear_gets_the_same_outlier_channels() -> None:
    from outliers import plant_outliers

    model = small_llama()
    _, before = logits_and_norms(model)
    plant_outliers(model, channels=3, factor=64.0)
    _, after = logits_and_norms(model)
    grown = [
        set(torch.nonzero((y.abs() > 10 * x.abs()).all(dim=(0, 1)))[:, 0].tolist())
        for x, y in zip(before, after, strict=True)
    ]
    assert len(grown[0]) == 3
    assert grown == [grown[0]] * 4
