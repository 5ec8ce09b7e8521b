from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from castline.errors import CheckpointError, OutputError
from castline.exporters.readers.gguf_file import GgufReader
from castline.exporters.readers.tokenizer import FolderTokenizer, GgufTokenizer

WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2, "hello": 3, "world": 4}
TOKENS = ["<unk>", "<s>", "</s>", "h", "i", "hi"]  # byte-level, as a GGUF file spells them
GGUF_TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3, 1, 1, 1],
    "tokenizer.ggml.merges": ["h i"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = "{{ messages }}"
    path = tmp_path / "model"
    tokenizer.save_pretrained(path)
    (path / "generation_config.json").write_text('{"eos_token_id": 2}', encoding="utf-8")
    (path / "README.md").touch()
    return path


def test_loads_the_tokenizer_of_a_folder(folder: Path) -> None:
    tokenizer = FolderTokenizer(folder, trust_remote_code=False).load()
    assert tokenizer.encode("hello world") == [3, 4]


def test_copies_the_files_of_a_folder_and_no_others(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    names = FolderTokenizer(folder, trust_remote_code=False).save(out)
    assert names == (
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    assert sorted(path.name for path in out.iterdir()) == list(names)
    assert all((out / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_refuses_a_folder_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    source = FolderTokenizer(folder, trust_remote_code=False)
    with pytest.raises(
        CheckpointError, match=r"holds no tokenizer: it needs one of tokenizer\.json"
    ):
        source.load()
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        source.save(tmp_path)


def test_refuses_a_tokenizer_cut_anywhere(folder: Path, tmp_path: Path) -> None:
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8").rstrip()
    source = FolderTokenizer(folder, trust_remote_code=False)
    for length in range(0, len(text), 97):
        file.write_text(text[:length], encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"tokenizer\.json is not JSON"):
            source.load()
        with pytest.raises(CheckpointError, match=r"tokenizer\.json is not JSON"):
            source.save(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"model": {"type": "moon"}}'])
def test_refuses_json_that_is_no_tokenizer(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    source = FolderTokenizer(folder, trust_remote_code=False)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is no tokenizer: .*Download"):
        source.load()
    with pytest.raises(CheckpointError, match="is no tokenizer"):
        source.save(tmp_path)


def test_converts_vocabulary_and_merges_to_the_file_that_runs(tmp_path: Path) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, "hi", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nh i\n", encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    (folder / "generation_config.json").write_text('{"eos_token_id": 257}', encoding="utf-8")
    names = FolderTokenizer(folder, trust_remote_code=False).save(out)
    assert names == ("generation_config.json", "tokenizer.json", "tokenizer_config.json")
    assert sorted(path.name for path in out.iterdir()) == list(names)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert tokenizer.encode("hi").ids == [numbers["hi"]]
    assert tokenizer.decode([numbers["hi"]]) == "hi"


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_names_the_file_that_may_not_grow(
    folder: Path, write_gguf, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    path = write_gguf(metadata=GGUF_TOKENIZER)
    sources = {
        "folder": FolderTokenizer(folder, trust_remote_code=False),
        "gguf": GgufTokenizer(path, GgufReader(path).config()),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(OutputError, match=r"out.* cannot be written: File too large"):
            sources[kind].save(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_says_that_the_output_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    source = FolderTokenizer(folder, trust_remote_code=False)
    with pytest.raises(OutputError, match=r"absent/.* cannot be written: No such file"):
        source.save(tmp_path / "absent")


def test_converts_the_tokenizer_of_a_gguf_file(write_gguf) -> None:
    path = write_gguf(metadata=GGUF_TOKENIZER)
    source = GgufTokenizer(path, GgufReader(path).config())
    tokenizer = source.load()
    assert tokenizer.encode("hi", add_special_tokens=False) == [5]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_saves_a_converted_tokenizer_that_loads_again(write_gguf, tmp_path: Path) -> None:
    path = write_gguf(metadata=GGUF_TOKENIZER | {"tokenizer.chat_template": "{{ messages }}"})
    out = tmp_path / "out"
    out.mkdir()
    names = GgufTokenizer(path, GgufReader(path).config()).save(out)
    assert sorted(file.name for file in out.iterdir()) == list(names)
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} < set(names)
    again = FolderTokenizer(out, trust_remote_code=False).load()
    assert again.encode("hi", add_special_tokens=False) == [5]
    assert again.chat_template == "{{ messages }}"
    settings = json.loads((out / "generation_config.json").read_text(encoding="utf-8"))
    assert (settings["bos_token_id"], settings["eos_token_id"]) == (1, 2)


def test_refuses_a_gguf_file_without_a_tokenizer(write_gguf) -> None:
    path = write_gguf()
    with pytest.raises(CheckpointError, match=r"model\.gguf holds no tokenizer that can be loaded"):
        GgufTokenizer(path, GgufReader(path).config()).load()


def test_refuses_a_gguf_tokenizer_of_an_unknown_kind(write_gguf) -> None:
    path = write_gguf(metadata=GGUF_TOKENIZER | {"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(CheckpointError, match="rwkv"):
        GgufTokenizer(path, GgufReader(path).config()).load()
