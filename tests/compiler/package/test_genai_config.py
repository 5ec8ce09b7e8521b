"""genai_config.json says what onnxruntime-genai must know, and it runs a folder by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from castline.compiler.package.genai_config import (
    generation_settings,
    stop_tokens,
    write_genai_config,
)
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.write import write_model
from castline.errors import CheckpointError

CONFIG = LlamaConfig(
    vocab_size=100,
    hidden_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_hidden_layers=3,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
)


def document(
    folder: Path, config: PretrainedConfig = CONFIG, *, shares_cache: bool = True, stop: list[int]
) -> dict[str, Any]:
    write_genai_config(folder, config, shares_cache=shares_cache, stop_tokens=stop)
    content: dict[str, Any] = json.loads((folder / "genai_config.json").read_text())
    return content


def test_describes_the_decoder(tmp_path: Path) -> None:
    found = document(tmp_path, stop=[2])
    decoder = found["model"]["decoder"]
    assert decoder["filename"] == "model.onnx"
    assert (decoder["head_size"], decoder["hidden_size"]) == (16, 64)
    assert (decoder["num_attention_heads"], decoder["num_key_value_heads"]) == (4, 2)
    assert decoder["num_hidden_layers"] == 3
    assert decoder["inputs"]["past_key_names"] == "past_key_values.%d.key"
    assert decoder["outputs"]["present_value_names"] == "present.%d.value"
    assert found["model"]["type"] == "llama"
    assert found["model"]["context_length"] == found["search"]["max_length"] == 256
    assert found["model"]["vocab_size"] == 100


def test_the_head_size_of_the_configuration_comes_first(tmp_path: Path) -> None:
    config = Qwen3Config(hidden_size=64, num_attention_heads=4, head_dim=32)
    found = document(tmp_path, config, stop=[2])
    assert found["model"]["decoder"]["head_size"] == 32


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (Qwen3Config(), "qwen3"),
        (Gemma2Config(), "gemma2"),
        (MixtralConfig(), "decoder"),
        (BloomConfig(), "decoder"),
        (GPT2Config(), "decoder"),  # gpt2 is to it a graph with keys and values in one tensor
    ],
)
def test_a_type_that_genai_does_not_know_is_a_decoder(
    tmp_path: Path, config: PretrainedConfig, kind: str
) -> None:
    assert document(tmp_path, config, stop=[2])["model"]["type"] == kind


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        (BloomConfig(n_head=8), 8),
        (FalconConfig(multi_query=True, hidden_size=48, num_attention_heads=6), 1),
        (FalconConfig(multi_query=False, hidden_size=48, num_attention_heads=6), 6),
        (
            FalconConfig(
                new_decoder_architecture=True, hidden_size=48, num_attention_heads=6, num_kv_heads=2
            ),
            2,
        ),
    ],
)
def test_the_heads_of_the_cache_are_told_in_every_familys_words(
    tmp_path: Path, config: PretrainedConfig, heads: int
) -> None:
    decoder = document(tmp_path, config, stop=[2])["model"]["decoder"]
    assert decoder["num_key_value_heads"] == heads


def test_a_model_without_a_table_of_positions_has_a_context_too(tmp_path: Path) -> None:
    found = document(tmp_path, BloomConfig(), stop=[2])
    assert found["model"]["context_length"] == found["search"]["max_length"] == 2048


@pytest.mark.parametrize("shares", [True, False])
def test_says_whether_past_and_present_may_be_one_buffer(tmp_path: Path, shares: bool) -> None:
    found = document(tmp_path, shares_cache=shares, stop=[2])
    assert found["search"]["past_present_share_buffer"] is shares


@pytest.mark.parametrize(
    ("stop", "end", "padding"), [([2], 2, 2), ([5, 6], [5, 6], 5), ([], None, None)]
)
def test_names_the_tokens_that_end_a_text(
    tmp_path: Path, stop: list[int], end: object, padding: object
) -> None:
    model = document(tmp_path, stop=stop)["model"]
    assert model.get("eos_token_id") == end
    assert model.get("pad_token_id") == padding
    assert model["bos_token_id"] == 1


def test_the_padding_token_of_the_configuration_comes_first(tmp_path: Path) -> None:
    config = LlamaConfig(**{**CONFIG.to_dict(), "pad_token_id": 7})
    assert document(tmp_path, config, stop=[2])["model"]["pad_token_id"] == 7


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, [2]),
        ({"eos_token_id": [8, 9]}, [8, 9]),
        ({"eos_token_id": 8}, [8]),
        ({"eos_token_id": None}, [2]),
        ({}, [2]),
    ],
)
def test_the_generation_settings_say_first_what_ends_a_text(
    tmp_path: Path, settings: dict[str, object] | None, expected: list[int]
) -> None:
    if settings is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert stop_tokens(generation_settings(tmp_path, "hf"), CONFIG) == expected


def test_a_model_may_have_no_token_that_ends_a_text() -> None:
    assert stop_tokens({}, LlamaConfig(eos_token_id=None)) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("\x00", "is not JSON"),
        ("[2]", "is not a JSON object"),
        ('{"eos_token_id": "</s>"}', "eos_token_id is '</s>', expected a number"),
        ('{"eos_token_id": [2, [3]]}', "eos_token_id is .*expected a number"),
    ],
)
def test_refuses_generation_settings_that_say_nothing(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"models/hf/generation_config\.json:? {words}"):
        generation_settings(tmp_path, "models/hf")


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_onnxruntime_genai_generates_the_same_tokens(
    tiny: Callable[[str], Any], tmp_path: Path, name: str
) -> None:
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    model = tiny(name).model()
    QuantizeWeights(WeightScheme(4, 32, False))(model)
    OnnxRuntime().lower(model, 512)
    write_model(model, tmp_path)
    config = tiny(name).checkpoint.config
    write_genai_config(tmp_path, config, shares_cache=True, stop_tokens=[2])
    prompt, count = np.array([[5, 11, 99, 42, 7]], np.int64), 24

    tokens = genai_answer(genai, tmp_path, prompt, count)
    expected = answer(tmp_path, prompt, count)
    assert tokens[: len(expected)] == expected


@pytest.mark.parametrize("name", ["gpt2", "bloom", "falcon, one key head", "mixtral"])
def test_onnxruntime_genai_takes_families_that_it_has_no_type_for(
    sample: Callable[[str], Any], tmp_path: Path, name: str
) -> None:
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    sample(name).written(tmp_path)
    config = sample(name).config
    write_genai_config(tmp_path, config, shares_cache=False, stop_tokens=[])
    prompt, count = np.array([[5, 11, 99, 42, 7]], np.int64), 12
    tokens = genai_answer(genai, tmp_path, prompt, count)  # ends at token 0 where nothing else does
    assert len(tokens) >= 6
    assert tokens == answer(tmp_path, prompt, count)[: len(tokens)]


def genai_answer(genai: Any, folder: Path, prompt: np.ndarray, count: int) -> list[int]:
    parameters = genai.GeneratorParams(loaded := genai.Model(str(folder)))
    parameters.set_search_options(max_length=prompt.size + count, do_sample=False)
    generator = genai.Generator(loaded, parameters)
    generator.append_tokens(prompt.astype(np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    tokens: list[int] = generator.get_sequence(0)[prompt.size :].tolist()
    return tokens


def answer(folder: Path, prompt: np.ndarray, count: int) -> list[int]:
    session = DecoderSession.open(folder, threads=1)
    expected = list(session.generate(prompt, max_new_tokens=count, stop=frozenset([2])))
    assert len(expected) >= 10, "a text long enough to tell"
    return expected


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("cpu", []),
        ("cuda", [{"cuda": {"enable_cuda_graph": "0"}}]),
        ("tensorrt-rtx", [{"NvTensorRtRtx": {"enable_cuda_graph": "1"}}]),
    ],
)
def test_names_the_execution_provider(tmp_path: Path, provider: Any, options: list[Any]) -> None:
    write_genai_config(tmp_path, CONFIG, shares_cache=True, stop_tokens=[2], provider=provider)
    decoder = json.loads((tmp_path / "genai_config.json").read_text())["model"]["decoder"]
    assert decoder["session_options"]["provider_options"] == options
