"""Token vectors become a text's vector as sentence-transformers' files say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from castline.compiler.package.sentence_pooling import SentencePooling, sentence_pooling
from castline.errors import OutputError

# One text of two tokens and one padding, one of three tokens.
HIDDEN = np.array([[[1, 4], [3, -2], [9, 9]], [[0, 1], [2, 1], [4, 7]]], dtype=np.float32)
MASK = np.array([[1, 1, 0], [1, 1, 1]])
POOLED = {
    "cls_token": [[1, 4], [0, 1]],
    "max_tokens": [[3, 4], [4, 7]],
    "mean_tokens": [[2, 1], [2, 3]],
    "mean_sqrt_len_tokens": np.array([[4, 2], [6, 9]]) / np.sqrt([[2], [3]]),
    "weightedmean_tokens": [[7 / 3, 0], [16 / 6, 24 / 6]],
    "lasttoken": [[3, -2], [4, 7]],
}


@pytest.mark.parametrize("mode", POOLED)
def test_padding_counts_in_no_pooling(mode: str) -> None:
    found = SentencePooling((mode,)).pooled(HIDDEN, MASK)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, POOLED[mode], rtol=1e-6)


def test_padding_on_the_left_is_skipped_too() -> None:
    hidden, mask = HIDDEN[:, ::-1], MASK[:, ::-1]
    np.testing.assert_array_equal(SentencePooling(("cls_token",)).pooled(hidden, mask)[0], [3, -2])
    np.testing.assert_array_equal(SentencePooling(("lasttoken",)).pooled(hidden, mask)[0], [1, 4])


def test_normalized_vectors_have_length_1() -> None:
    found = SentencePooling(("mean_tokens",), normalized=True).pooled(HIDDEN, MASK)
    np.testing.assert_allclose(found[0], np.array([2, 1]) / np.sqrt(5), rtol=1e-6)


def folder_of(folder: Path, modules: object, pooling: object = None, **files: object) -> Path:
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


PLACE = "sentence_transformers.models"
MODULES = [
    {"idx": 0, "path": "", "type": f"{PLACE}.Transformer"},
    {"idx": 1, "path": "1_Pooling", "type": f"{PLACE}.Pooling"},
    {"idx": 2, "path": "2_Normalize", "type": f"{PLACE}.Normalize"},
]
MEAN = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}


def test_all_that_the_files_say_is_read(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        MODULES,
        {"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True, **MEAN},
        sentence_bert_config={"max_seq_length": 256, "do_lower_case": True},
        config_sentence_transformers={
            "prompts": {"query": "query: "}, "default_prompt_name": "query",
        },
    )  # fmt: skip
    assert sentence_pooling(folder) == SentencePooling(
        ("cls_token", "mean_tokens", "lasttoken"), True, 256, True, "query: "
    )


def test_folders_alone_tell_the_modules(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [{"path": ""}, {"path": "1_Pooling"}], MEAN)
    assert sentence_pooling(folder) == SentencePooling(("mean_tokens",))


def test_without_the_list_of_modules_there_is_none(tmp_path: Path) -> None:
    assert sentence_pooling(tmp_path) is None


@pytest.mark.parametrize(
    ("modules", "pooling", "said"),
    [
        ([*MODULES, {"path": "3_Dense", "type": f"{PLACE}.Dense"}], MEAN, "has the module Dense"),
        (MODULES, {"pooling_mode_new": True}, "asks for new; expected one of pooling_mode_cls"),
        (MODULES, {"pooling_mode_cls_token": False}, "asks for no pooling"),
        (MODULES, [], "config.json: expected a JSON object"),
        ({}, MEAN, "modules.json: expected a list of modules"),
    ],
)
def test_what_is_not_known_is_refused(
    tmp_path: Path, modules: object, pooling: object, said: str
) -> None:
    with pytest.raises(OutputError, match=said):
        sentence_pooling(folder_of(tmp_path, modules, pooling))


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(OutputError, match=r"modules\.json: expected JSON"):
        sentence_pooling(tmp_path)
