from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, PretrainedConfig

from castline.errors import UnsupportedArchitectureError
from castline.exporters import skeleton as skeleton_module
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.export import export
from castline.exporters.refusals import reason, refusing
from castline.exporters.skeleton import skeleton
from castline.exporters.trace import trace

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 31,
}


def test_names_the_architecture_the_node_and_what_was_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch.export takes a Bessel function; no translation to ONNX exists."""
    from transformers.models.llama import modeling_llama

    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(torch.special.bessel_j0(self.up_proj(hidden)))

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", forward)
    with pytest.raises(UnsupportedArchitectureError) as error:
        trace(skeleton(LlamaConfig(**SIZES | {"num_hidden_layers": 1})))
    message = str(error.value)
    assert message.startswith("LlamaForCausalLM cannot be exported. Tried: torch.export of 1 of ")
    assert "ONNX opset 23." in message
    assert "At node %bessel_j0 (torch.ops.prims.bessel_j0.default): DispatchError: " in message
    assert error.value.__cause__ is not None


def test_names_what_a_models_own_code_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    def forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("only with kernels of its own")

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", forward)
    with pytest.raises(
        UnsupportedArchitectureError,
        match=r"LlamaForCausalLM cannot .* NotImplementedError: only with kernels of its own\. ",
    ):
        trace(skeleton(LlamaConfig(**SIZES)))


HYBRID = {"layer_types": ["linear_attention", "full_attention"]}


def test_refuses_layers_whose_type_says_that_they_keep_another_state() -> None:
    config = AutoConfig.for_model(
        "qwen3_next", **SIZES | HYBRID | {"num_experts": 0, "head_dim": 8}
    )
    with pytest.raises(UnsupportedArchitectureError, match="layer_types has 'linear_attention'"):
        skeleton(config)


def test_refuses_layers_that_turn_out_to_keep_another_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(skeleton_module, "_refuse_other_states", lambda _config: None)
    config = AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=2, vocab_size=31)
    with pytest.raises(UnsupportedArchitectureError, match=r"MambaForCausalLM .* another state"):
        trace(skeleton(config))


LIMITS: dict[str, tuple[PretrainedConfig, str]] = {
    "mpt": (
        AutoConfig.for_model(
            "mpt", d_model=32, n_heads=4, n_layers=2, max_seq_len=64, vocab_size=31
        ),
        "MptForCausalLM cannot be exported",
    ),
    "albert": (
        AutoConfig.for_model(
            "albert", **SIZES, embedding_size=16, max_position_embeddings=64, pad_token_id=0
        ),
        "AlbertModel: expected one list of 2 layers",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_that_stand(name: str, sample: Callable[[str], Any]) -> None:
    """When this fails a limit is gone, and the architecture may join the sweep.

    torch.export takes the lengths in MPT's slice of its ALiBi for a contradiction; ALBERT has one
    layer that is used many times, and so no list of them.
    """
    config, said = LIMITS[name]
    plain = sample("llama").checkpoint()
    checkpoint = Checkpoint("tiny", config, plain.reader, plain.tokenizer_source, None)
    with pytest.raises(UnsupportedArchitectureError, match=said):
        export(checkpoint)
    assert plain.reader.reads == {}  # type: ignore[attr-defined]


def test_passes_on_what_is_no_failure_to_trace() -> None:
    with pytest.raises(KeyboardInterrupt), refusing("Some", "something"):
        raise KeyboardInterrupt


def test_quotes_the_innermost_cause_in_one_line() -> None:
    inner = ValueError("\x1b[31mfirst\n   second\x1b[0m.")
    outer = RuntimeError("a page of advice")
    outer.__cause__ = inner
    assert reason(outer) == "ValueError: first second."


def test_a_long_story_is_cut() -> None:
    said = reason(ValueError("x" * 1000))
    assert said == f"ValueError: {'x' * 400} ..."
