from __future__ import annotations

import json
from pathlib import Path

import pytest

from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.readers.config_file import read_config

SIZES = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4}


def folder_with(folder: Path, fields: object) -> Path:
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def test_reads_the_configuration(tmp_path: Path) -> None:
    config = read_config(folder_with(tmp_path, SIZES), trust_remote_code=False)
    assert (config.model_type, config.hidden_size) == ("llama", 32)


def test_says_that_a_folder_is_empty(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json. The folder is empty"):
        read_config(tmp_path, trust_remote_code=False)


def test_says_that_a_folder_lacks_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"holds no config\.json\. Name the folder"):
        read_config(tmp_path, trust_remote_code=False)


def test_points_to_a_gguf_file_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model.Q4.gguf").touch()
    with pytest.raises(CheckpointError, match=r"name the file: .*model\.Q4\.gguf"):
        read_config(tmp_path, trust_remote_code=False)


@pytest.mark.parametrize("text", ["", "{", '{"model_type": "llama"', "[1]", "\x00", "[" * 100_000])
def test_refuses_what_is_not_a_json_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json is not (JSON|a JSON object)"):
        read_config(tmp_path, trust_remote_code=False)


def test_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        read_config(tmp_path, trust_remote_code=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_attention_heads": 0}, r"num_attention_heads is 0, expected 1 or more"),
        ({"num_hidden_layers": 0, "vocab_size": -1}, r"num_hidden_layers is 0, .*vocab_size is -1"),
        ({"num_key_value_heads": 3}, r"num_attention_heads is 4, expected a multiple of .* 3"),
    ],
)
def test_refuses_sizes_that_no_model_has(
    tmp_path: Path, change: dict[str, int], words: str
) -> None:
    folder = folder_with(tmp_path, SIZES | change)
    with pytest.raises(CheckpointError, match=rf"config\.json: {words}"):
        read_config(folder, trust_remote_code=False)


def test_names_an_unknown_model_type(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model_type": "quantumformer"})
    with pytest.raises(UnsupportedArchitectureError, match="model_type quantumformer is unknown"):
        read_config(folder, trust_remote_code=False)


def test_refuses_a_configuration_without_model_type(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"hidden_size": 32})
    with pytest.raises(UnsupportedArchitectureError, match="does not state model_type"):
        read_config(folder, trust_remote_code=False)


def test_refuses_values_that_make_no_model(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {**SIZES, "hidden_size": "wide"})
    with pytest.raises(CheckpointError, match=r"(?s)no configuration of llama: .*hidden_size"):
        read_config(folder, trust_remote_code=False)


@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors", "modelopt", "fp8"])
def test_the_model_is_that_of_weights_in_float(method: str, tmp_path: Path) -> None:
    fields = {**SIZES, "quantization_config": {"quant_method": method, "bits": 4}}
    config = read_config(folder_with(tmp_path, fields), trust_remote_code=False)
    assert config.hidden_size == 32
    assert not hasattr(config, "quantization_config")


class TestCodeOfTheCheckpoint:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        code = (
            "from pathlib import Path\n"
            "from transformers import PretrainedConfig\n"
            "class OwnConfig(PretrainedConfig):\n"
            "    model_type = 'own'\n"
            f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        )
        (tmp_path / "configuration_own.py").write_text(code, encoding="utf-8")
        auto_map = {"AutoConfig": "configuration_own.OwnConfig"}
        return folder_with(tmp_path, {"model_type": "own", "auto_map": auto_map})

    def test_is_not_run_and_the_error_says_how_to_allow_it(self, folder: Path) -> None:
        with pytest.raises(UnsupportedArchitectureError, match=r"type own .*--trust-remote-code"):
            read_config(folder, trust_remote_code=False)
        assert not (folder / "ran").exists()

    def test_is_run_where_it_is_trusted(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = str(tmp_path / "modules")
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
        monkeypatch.syspath_prepend(cache)
        config = read_config(folder, trust_remote_code=True)
        assert config.model_type == "own"
        assert (folder / "ran").exists()

    def test_is_not_run_for_a_type_that_transformers_knows(self, folder: Path) -> None:
        fields = {**SIZES, "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
        assert read_config(folder_with(folder, fields), trust_remote_code=False).hidden_size == 32
        assert not (folder / "ran").exists()
