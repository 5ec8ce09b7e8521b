"""onnxruntime-genai runs our folders by its own loop, with the text of our session."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from castline.compiler.targets.genai_session import GenaiSession, search_options
from castline.compiler.targets.sampling import Sampling
from castline.compiler.targets.session import DecoderSession
from castline.errors import TargetError

PROMPT = np.array([[5, 9, 120, 33, 7]])


@pytest.fixture
def folder(published: tuple[Any, Path]) -> Path:
    pytest.importorskip("onnxruntime_genai")
    return published[1]


@pytest.fixture
def genai(folder: Path) -> GenaiSession:
    return GenaiSession.open(folder, threads=1)


def ours(folder: Path, count: int, **options: Any) -> list[int]:
    session = DecoderSession.open(folder, threads=1)
    return list(session.generate(PROMPT, max_new_tokens=count, **options))


def test_greedy_text_is_that_of_our_session(genai: GenaiSession, folder: Path) -> None:
    expected = ours(folder, 12)
    assert len(set(expected)) > 3
    assert list(genai.generate(PROMPT, max_new_tokens=12)) == expected
    assert list(genai.generate(PROMPT, max_new_tokens=12)) == expected, "and again"


def test_a_repetition_penalty_is_that_of_our_session(genai: GenaiSession, folder: Path) -> None:
    sampling = Sampling(repetition_penalty=1.3)
    expected = ours(folder, 12, sampling=sampling)
    assert expected != ours(folder, 12)
    assert list(genai.generate(PROMPT, max_new_tokens=12, sampling=sampling)) == expected


def test_a_stop_token_ends_it_and_is_not_told(genai: GenaiSession, folder: Path) -> None:
    expected = ours(folder, 6)
    stop = frozenset({expected[-1]})
    told = list(genai.generate(PROMPT, max_new_tokens=12, stop=stop))
    assert told == expected[: expected.index(expected[-1])]


def test_the_same_seed_draws_the_same_text(genai: GenaiSession) -> None:
    def drawn(seed: int) -> list[int]:
        sampling = Sampling(temperature=2.0, top_k=40, top_p=0.95, seed=seed)
        return list(genai.generate(PROMPT, max_new_tokens=12, sampling=sampling))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_text_ends_where_the_context_is_full(genai: GenaiSession) -> None:
    # The tiny model's context has 512 tokens; 2 ends a text wherever it comes.
    prompt = np.full((1, 508), 5)
    told = list(genai.generate(prompt, max_new_tokens=500))
    assert len(told) == 4 or told[-1] == 2
    assert list(genai.generate(np.full((1, 512), 5), max_new_tokens=3)) == []
    assert list(genai.generate(PROMPT, max_new_tokens=0)) == []


def test_a_prompt_beyond_the_context_is_refused(genai: GenaiSession) -> None:
    with pytest.raises(TargetError, match=r"513 tokens asked for.*context length is 512"):
        list(genai.generate(np.full((1, 513), 5), max_new_tokens=1))


def test_tokens_that_the_model_does_not_have_are_an_error(genai: GenaiSession) -> None:
    with pytest.raises(TargetError, match=r"genai could not run the model: .*indices"):
        list(genai.generate(np.array([[5, 100_000]]), max_new_tokens=1))


def test_a_folder_that_it_does_not_take_is_told(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(TargetError, match=r"copy: onnxruntime-genai [\d.]+ cannot load it: "):
        GenaiSession.open(tmp_path / "copy")


def test_a_folder_without_its_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"has no genai_config\.json"):
        GenaiSession.open(tmp_path)


def test_a_missing_package_is_told_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": {"decoder": {}}}))
    with pytest.raises(TargetError, match=r"pip install onnxruntime-genai.*--runtime onnxruntime"):
        GenaiSession.open(tmp_path)


def test_every_option_is_given_so_that_the_folder_s_own_do_not_count() -> None:
    greedy = search_options(Sampling())
    assert greedy == {
        "do_sample": False, "temperature": 1.0, "top_k": 1, "top_p": 1.0, "repetition_penalty": 1.0,
    }  # fmt: skip
    drawn = search_options(Sampling(temperature=0.5, top_p=0.9, seed=2**40))
    assert drawn["do_sample"]
    assert (drawn["temperature"], drawn["top_k"], drawn["top_p"]) == (0.5, 0, 0.9)
    assert 0 <= drawn["random_seed"] < 2**31


def test_a_fixed_cache_is_refused_before_it_is_loaded(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "fixed")
    model = onnx.load(tmp_path / "fixed" / "model.onnx", load_external_data=False)
    model.graph.input.append(onnx.helper.make_tensor_value_info("write_indices", 7, ["batch"]))
    onnx.save(model, tmp_path / "fixed" / "model.onnx")
    with pytest.raises(TargetError, match=r"fixed cache.*write_indices.*--runtime onnxruntime"):
        GenaiSession.open(tmp_path / "fixed", threads=1)
