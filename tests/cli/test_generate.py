from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from castline.cli.app import app
from castline.compiler import runner
from castline.compiler.package.manifest import write_manifest
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


def test_an_engine_s_refusal_reaches_the_user_with_the_way_out(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.engine").touch()
    build = {"engine": "model.engine", "edition": "tensorrt-rtx", "version": "1.7.1.116"}
    write_manifest(folder, {"build": build})
    monkeypatch.setattr(runner, "runnable_here", lambda: "there is none")
    result = run("generate", folder, "Hi")
    assert result.exit_code == 1
    assert "engine of TensorRT-RTX 1.7.1.116, which needs an NVIDIA GPU, and" in result.stderr
    assert f"castline generate {folder} PROMPT --runtime onnxruntime" in result.stderr


def test_the_runtime_and_its_options_are_passed_on(
    run: Any, model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def opened(*arguments: Any, **options: Any) -> Model:
        asked.extend([*arguments, options])
        return model

    monkeypatch.setattr(runner, "open_runner", opened)
    result = run(
        "generate", folder, "Hi", "--runtime", "genai", "--no-cuda-graph", "--threads", "2"
    )
    assert result.exit_code == 0, result.stderr
    assert asked == [folder, "genai", {"threads": 2, "cuda_graph": False}]


def test_a_dash_reads_the_prompt_from_standard_input(model: Model, folder: Path) -> None:
    result = CliRunner().invoke(app, ["generate", str(folder), "-"], input="Größe?\nJa\n")
    assert result.exit_code == 0, result.stderr
    assert bytes(model.asked["input_ids"][0]).decode() == "Größe?\nJa"


def test_standard_input_that_is_no_text_is_an_error_in_words(model: Model, folder: Path) -> None:
    result = CliRunner().invoke(app, ["generate", str(folder), "-"], input=b"\xff\xfe")
    assert (result.exit_code, model.asked) == (1, {})
    assert "standard input is not UTF-8 text" in result.stderr


def test_a_missing_folder_is_named(run: Any, tmp_path: Path) -> None:
    result = run("generate", tmp_path / "none", "Hi")
    assert result.exit_code == 1
    assert "none does not exist" in result.stderr
