"""Texts become the vectors that the original gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from castline.compiler.embedding import embed_texts
from castline.errors import OutputError, TargetError

TEXTS = ["w3 w9 w27 w81 .", "w5", "w6 w7 w8"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, encoder: Any, compiled: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("embedding") / "out"
    compiled(encoder.checkpoint.source, folder, recipe=None, target="onnx")
    return folder


@pytest.fixture
def plain(encoder: Any, tmp_path: Path) -> Path:
    """Return a folder with a float graph and its tokenizer alone."""
    (tmp_path / "model.onnx").symlink_to(encoder.graph)
    (tmp_path / "model.onnx.data").symlink_to(encoder.graph.with_name("model.onnx.data"))
    source = Path(encoder.checkpoint.source)
    (tmp_path / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    return tmp_path


def reference(encoder: Any, text: str) -> np.ndarray:
    """Return the mean of a text's vectors by transformers, alone and without padding."""
    source = encoder.checkpoint.source
    tokens = AutoTokenizer.from_pretrained(source)(text, return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(source)(**tokens)[0][0]
    return hidden.mean(0).numpy()


def test_vectors_are_the_original_s_whatever_stands_beside_them(encoder: Any, plain: Path) -> None:
    found = embed_texts(plain, TEXTS, threads=1)
    expected = np.stack([reference(encoder, text) for text in TEXTS])
    np.testing.assert_allclose(found.vectors, expected, atol=1e-4)
    assert found.notes == (
        "the folder has no modules.json of sentence-transformers, so a text's vector is the mean "
        "of its tokens' vectors",
    )
    a, b = expected[:2]
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.cosines()[0, 1] == pytest.approx(cosine, abs=1e-4)


def test_more_texts_than_a_batch_keep_their_order(plain: Path) -> None:
    texts = [f"w{i} w{i + 1}" for i in range(20)]
    found = embed_texts(plain, texts, threads=1).vectors
    assert found.shape == (20, 128)
    np.testing.assert_allclose(found[17], embed_texts(plain, texts[17:18]).vectors[0], atol=1e-4)


def test_the_files_of_a_compiled_folder_say_how(output: Path, plain: Path) -> None:
    found = embed_texts(output, TEXTS[:1], threads=1)
    assert found.notes == ()
    assert np.linalg.norm(found.vectors[0]) == pytest.approx(1, abs=1e-5), "2_Normalize"
    alike = found.vectors[0] @ embed_texts(plain, TEXTS[:1]).vectors[0]
    assert alike > 0.9 * np.linalg.norm(embed_texts(plain, TEXTS[:1]).vectors[0])


def test_long_texts_are_cut_and_that_is_said(output: Path) -> None:
    long = " ".join(f"w{i}" for i in range(100))
    short = " ".join(f"w{i}" for i in range(62))  # 64 tokens with [CLS] and [SEP]
    found = embed_texts(output, [long, short], threads=1)
    np.testing.assert_allclose(found.vectors[0], found.vectors[1], atol=1e-5)
    assert found.notes == ("1 of 2 texts are longer than 64 tokens, and were cut",)


def test_prompts_and_lower_case_are_applied(plain: Path) -> None:
    (plain / "modules.json").write_text(json.dumps([{"path": ""}]))
    expected = embed_texts(plain, ["w3 w9"]).vectors
    (plain / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    (plain / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "w3 "}, "default_prompt_name": "query"}'
    )
    np.testing.assert_array_equal(embed_texts(plain, ["W9"]).vectors, expected)


def test_an_engine_that_was_not_run_is_said(plain: Path) -> None:
    (plain / "model.engine").write_bytes(b"")
    assert "model.engine was not run" in embed_texts(plain, TEXTS).notes[-1]


def test_a_decoder_gives_no_vectors(published: tuple[Any, Path]) -> None:
    with pytest.raises(TargetError, match="is a decoder: it writes text and gives no vectors"):
        embed_texts(published[1], TEXTS)


@pytest.mark.parametrize(("content", "said"), [(None, "does not exist"), ("{", "not a tokenizer")])
def test_a_folder_without_a_tokenizer_is_said(plain: Path, content: str | None, said: str) -> None:
    (plain / "tokenizer.json").unlink()
    if content is not None:
        (plain / "tokenizer.json").write_text(content)
    with pytest.raises(OutputError, match=said):
        embed_texts(plain, TEXTS)


def test_a_graph_is_read_with_what_is_beside_it(plain: Path) -> None:
    found = embed_texts(plain / "model.onnx", TEXTS, threads=1)
    np.testing.assert_array_equal(found.vectors, embed_texts(plain, TEXTS, threads=1).vectors)
