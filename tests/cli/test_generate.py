from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from castline.cli import generate
from castline.cli.machine import Gpu
from castline.compiler.targets.session import DecoderSession

EOS = 256


class Model:
    """Answers any prompt with the bytes of a text, and notes what it was asked."""

    def __init__(self, text: str) -> None:
        self.answer = [*text.encode(), EOS]
        self.asked: dict[str, Any] = {}

    def generate(self, input_ids: Any, **options: Any) -> Iterator[int]:
        self.asked = {"input_ids": input_ids.tolist(), **options}
        for token in self.answer[: options["max_new_tokens"]]:
            if token in options["stop"]:
                return
            yield token


@pytest.fixture
def folder(tmp_path: Path, byte_tokenizer: Tokenizer) -> Path:
    byte_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": {EOS}}}')
    (tmp_path / "model.onnx").touch()
    return tmp_path


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    stand_in = Model("Größe: 10 € ☕")
    monkeypatch.setattr(DecoderSession, "open", lambda *_paths, **_options: stand_in)
    return stand_in


def test_streams_the_answer_to_stdout_and_the_speed_to_stderr(
    run: Any, model: Model, folder: Path
) -> None:
    report = {"bytes": 5000, "original_bytes": 20_000}
    (folder / "report.json").write_text(json.dumps(report))
    result = run("generate", folder, "Hi")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "Größe: 10 € ☕\n"
    assert "tokens: 19 after a prompt of 2; prefill" in result.stderr
    assert "size: 5 kB, original in float32 20 kB" in result.stderr
    assert model.asked["input_ids"] == [[72, 105]]
    assert model.asked["stop"] == {EOS}


def test_passes_on_how_to_sample(run: Any, model: Model, folder: Path) -> None:
    result = run(
        "generate", folder, "Hi", "--temperature", "0.7", "--top_p", "0.9", "--top-k", "40",
        "--repetition-penalty", "1.1", "--seed", "3", "--max-new-tokens", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    sampling = model.asked["sampling"]
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 40)
    assert (sampling.repetition_penalty, sampling.seed) == (1.1, 3)
    assert result.stdout == "Gr\n"


def test_json_is_one_document(run: Any, model: Model, folder: Path) -> None:
    document = json.loads(run("generate", folder / "model.onnx", "Hi", "--json").stdout)
    assert (document["text"], document["new_tokens"]) == ("Größe: 10 € ☕", 19)
    assert document["prompt_tokens"] == len(model.asked["input_ids"][0])


def test_wrong_sampling_is_an_error_in_words(run: Any, model: Model, folder: Path) -> None:
    result = run("generate", folder, "Hi", "--top-p", "2")
    assert (result.exit_code, model.asked) == (1, {})
    assert "top_p is 2.0, expected above 0, at most 1" in result.stderr


def test_a_seed_below_0_is_an_error_in_words(run: Any, model: Model, folder: Path) -> None:
    result = run("generate", folder, "Hi", "--seed", "-1")
    assert (result.exit_code, model.asked) == (1, {})
    assert "seed is -1, expected 0 or more" in result.stderr


def test_an_empty_prompt_is_refused(run: Any, model: Model, folder: Path) -> None:
    result = run("generate", folder, "")
    assert (result.exit_code, model.asked) == (1, {})
    assert "the prompt is empty" in result.stderr


@pytest.mark.parametrize("has_gpu", [False, True])
def test_an_engine_is_refused_with_the_way_out(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    (folder / "model.engine").touch()
    seen = (Gpu("NVIDIA L4", "8.9", "23034 MiB", "580.95"),) if has_gpu else ()
    monkeypatch.setattr(generate, "gpus", lambda: seen)
    result = run("generate", folder, "Hi")
    assert result.exit_code == 1
    assert ("does not run them yet" if has_gpu else "needs an NVIDIA GPU") in result.stderr
    assert f"castline generate {folder}/model.onnx" in result.stderr


def test_a_missing_folder_is_named(run: Any, tmp_path: Path) -> None:
    result = run("generate", tmp_path / "none", "Hi")
    assert result.exit_code == 1
    assert "none does not exist" in result.stderr
