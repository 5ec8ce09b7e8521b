"""Check that the peer of the engines chooses what transformers' own loop chooses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

PEERS = Path(__file__).resolve().parents[3] / "benchmarks" / "peers"
PROMPT, OTHER = np.array([[5, 9, 33, 7]]), np.array([[8, 8, 1, 40, 3, 2]])
CAPACITY = 48


@pytest.fixture(autouse=True)
def beside_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PEERS)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    # Big weights: with the usual ones a random model repeats one token, whatever its cache holds.
    config = LlamaConfig(**sizes, **heads, initializer_range=0.5)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def written(model: PreTrainedModel, prompt: np.ndarray, new: int) -> list[int]:
    """Return what transformers writes, stopping at no token."""
    ids = torch.from_numpy(prompt)
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=[],
        pad_token_id=0,
    )
    return found[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("capacity", [None, CAPACITY])
def test_greedy_tokens_are_those_of_transformers(
    model: PreTrainedModel, capacity: int | None
) -> None:
    from torch_generate import TorchRunner

    runner = TorchRunner(model, capacity, compiled=False)
    expected = [written(model, prompt, 20) for prompt in (PROMPT, OTHER)]
    assert all(len(set(tokens)) > 5 for tokens in expected)
    # The cache of the first answer must not be seen by the second, nor that by the third.
    for prompt, tokens in zip((PROMPT, OTHER, PROMPT), [*expected, expected[0]], strict=True):
        assert list(runner.generate(prompt, max_new_tokens=20)) == tokens


@pytest.mark.parametrize("capacity", [None, CAPACITY])
def test_steps_give_the_logits_of_the_last_token(
    model: PreTrainedModel, capacity: int | None
) -> None:
    from torch_generate import TorchRunner

    with torch.no_grad():
        whole = model(torch.from_numpy(OTHER)).logits.numpy()
    decoding = TorchRunner(model, capacity, compiled=False).begin(1, CAPACITY)
    for start, end in ((0, 4), (4, 5), (5, 6)):
        logits = decoding.step(OTHER[:, start:end])
        assert logits.shape == (1, 1, 64)
        np.testing.assert_allclose(logits[0, -1], whole[0, end - 1], rtol=1e-4, atol=1e-4)


def test_compiled_steps_are_for_tokens_and_prompts_stay_eager(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch_generate

    lengths: list[int] = []

    def compiled(function: Any, **options: Any) -> Any:
        assert options == {"mode": "reduce-overhead", "fullgraph": True}

        def step(**given: Any) -> Any:
            lengths.append(given["input_ids"].shape[1])
            return function(**given)

        return step

    monkeypatch.setattr(torch_generate.torch, "compile", compiled)
    runner = torch_generate.TorchRunner(model, CAPACITY, compiled=True)
    assert list(runner.generate(PROMPT, max_new_tokens=5)) == written(model, PROMPT, 5)
    assert lengths == [1, 1, 1, 1], "the first token comes with the prompt"


def test_on_a_processor_a_reference_is_written(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import torch_generate
    from token_speed import FOLLOWED, Task

    model.save_pretrained(tmp_path / "model")
    task = Task((tuple(PROMPT[0].tolist()),), 4, 0).write(tmp_path / "task.json")
    command = ["torch_generate.py", str(tmp_path / "model"), str(task), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", command)
    torch_generate.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["greedy"] == written(model, PROMPT, FOLLOWED)
    assert found["runs"] == []
