from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import ClassVar

import gguf
import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from castline.errors import CheckpointError, OutputError, UnsupportedArchitectureError
from castline.exporters.checkpoint import Checkpoint, is_on_hub, open_checkpoint
from castline.exporters.readers.stored import StoredScheme

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
    tie_word_embeddings=False,
)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG)


@pytest.fixture
def folder(model: LlamaForCausalLM, tmp_path: Path) -> Path:
    path = tmp_path / "model"
    model.save_pretrained(path)
    return path


def assert_holds(checkpoint: Checkpoint, model: LlamaForCausalLM) -> None:
    state = model.state_dict()
    assert set(checkpoint.tensors) == set(state)
    for name, tensor in state.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(checkpoint.read(name), tensor.numpy(), err_msg=name)


def test_rows_are_read_alone_and_must_be_finite(folder: Path, model: LlamaForCausalLM) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][7, 3] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rows = open_checkpoint(folder).rows_of("lm_head.weight")
    expected = model.lm_head.weight.detach().numpy()[[9, 1, 9]]
    np.testing.assert_array_equal(rows(np.array([9, 1, 9])), expected)
    with pytest.raises(CheckpointError, match=r"lm_head.weight holds 1 of 64 values"):
        rows(np.array([7, 8]))


def test_opens_a_folder(folder: Path, model: LlamaForCausalLM) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.source == str(folder)
    assert checkpoint.config.hidden_size == 32
    assert [path.name for path in checkpoint.files] == ["model.safetensors"]
    assert_holds(checkpoint, model)


def test_opens_a_sharded_folder(model: LlamaForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    checkpoint = open_checkpoint(str(tmp_path))
    assert len(checkpoint.files) > 2
    assert_holds(checkpoint, model)


def test_opens_a_folder_of_bin_files(folder: Path, model: LlamaForCausalLM) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert_holds(open_checkpoint(folder), model)


@pytest.mark.parametrize(
    ("torch_dtype", "dtype"),
    [(torch.float16, np.float16), (torch.bfloat16, ml_dtypes.bfloat16)],
)
def test_keeps_half_precision(torch_dtype: torch.dtype, dtype: type, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    halved = {name: tensor.to(torch_dtype) for name, tensor in weights.items()}
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder)
    for name, tensor in halved.items():
        array = checkpoint.read(name)
        assert array.dtype == dtype
        np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize("name", ["tiny.gguf", "tiny"])
def test_opens_a_gguf_file_by_its_ending_or_its_beginning(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tmp_path / name))
    assert checkpoint.config.model_type == "qwen2"
    assert checkpoint.config.tie_word_embeddings
    np.testing.assert_array_equal(
        checkpoint.read("model.embed_tokens.weight"), np.full((6, 8), 0.5, np.float32)
    )


def test_opens_a_cached_model_of_the_hub_while_offline(
    folder: Path, model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(tmp_path / "cache", monkeypatch)
    cached = tmp_path / "cache" / "models--org--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    checkpoint = open_checkpoint("org/tiny")
    assert checkpoint.source == "org/tiny"
    assert_holds(checkpoint, model)


def test_says_that_an_id_is_not_cached_while_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="org/absent is not in the cache"):
        open_checkpoint("org/absent")


@pytest.mark.parametrize("source", ["~no-such-user/x", "x" * 5000])
def test_says_that_a_text_can_be_no_path(source: str) -> None:
    with pytest.raises(CheckpointError, match="can be no path"):
        open_checkpoint(source)


def test_tells_what_is_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_on_hub("org/model")
    assert not is_on_hub("./org/model")
    assert not is_on_hub(Path("org/model"))
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert not is_on_hub("org/model")


@pytest.mark.parametrize(
    "source", ["./org/model", "/org/model", "~/org-model-that-is-not", "org/m.gguf", Path("org/m")]
)
def test_never_looks_a_path_up_on_the_hub(
    source: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise AssertionError("asked the Hub for a path")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(source)


def test_a_folder_comes_before_an_id_of_the_same_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent.parent)
    assert open_checkpoint(f"{folder.parent.name}/model").config.hidden_size == 32


def test_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="The folder is empty"):
        open_checkpoint(tmp_path)


def test_refuses_an_unknown_architecture(folder: Path) -> None:
    rewrite_config(folder, model_type="quantumformer")
    with pytest.raises(UnsupportedArchitectureError, match="quantumformer"):
        open_checkpoint(folder)


def test_refuses_a_truncated_file_of_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        open_checkpoint(folder)


def test_points_from_a_file_of_weights_to_its_folder(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=f"is no GGUF file.*name their folder, {folder}"):
        open_checkpoint(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_refuses_to_read_nan_and_infinity(dtype: torch.dtype, folder: Path) -> None:
    weights = {n: t.to(dtype) for n, t in load_file(folder / "model.safetensors").items()}
    weights["model.norm.weight"][3] = torch.nan
    weights["model.norm.weight"][7:9] = -torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder)
    message = r"model\.safetensors: model\.norm\.weight holds 3 of 32 values that are NaN or Inf"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read("model.norm.weight")
    assert checkpoint.read("lm_head.weight").shape == (64, 32)


def test_reading_a_safetensors_tensor_copies_nothing(folder: Path) -> None:
    shape = (4096, 1024)  # 16 MiB
    save_file({"a": torch.ones(shape), "b": torch.ones(shape)}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    tracemalloc.start()
    array = checkpoint.read("b")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert array.shape == shape
    assert peak < array.nbytes / 8


def test_saves_a_config_without_quantization(folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder)
    checkpoint.config.quantization_config = {"quant_method": "gguf"}
    assert checkpoint.save_config(tmp_path) == ("config.json",)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in saved
    assert LlamaConfig.from_pretrained(tmp_path).num_key_value_heads == 2


def test_says_that_the_config_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent/config\.json cannot be written"):
        open_checkpoint(folder).save_config(tmp_path / "absent")


def test_loads_the_tokenizer_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(folder)
    loads: list[int] = []
    monkeypatch.setattr(
        "castline.exporters.readers.tokenizer.FolderTokenizer.load",
        lambda _: loads.append(1) or "tokenizer",
    )
    assert checkpoint.tokenizer() is checkpoint.tokenizer()
    assert loads == [1]


def test_refuses_a_folder_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        checkpoint.tokenizer()
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        checkpoint.save_tokenizer(tmp_path)


def test_hashes_the_weights_in_name_order_and_then_the_config(
    model: LlamaForCausalLM, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    names = [*sorted(path.name for path in tmp_path.glob("*.safetensors")), "config.json"]
    content = b"".join((tmp_path / name).read_bytes() for name in names)
    checkpoint = open_checkpoint(tmp_path)
    told: list[int] = []
    assert checkpoint.sha256(told.append) == hashlib.sha256(content).hexdigest()
    assert sum(told) == checkpoint.hashed_bytes == len(content)


def test_hashes_a_gguf_file_as_it_is(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert open_checkpoint(path).sha256() == expected


def test_importing_it_does_not_import_what_takes_seconds() -> None:
    code = (
        "import sys, castline.exporters.checkpoint\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def rewrite_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(fields), encoding="utf-8")


def go_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))


def write_gguf(path: Path) -> Path:
    """Write a GGUF file that holds an embedding and the sizes of a model."""
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tensor("token_embd.weight", np.full((6, 8), 0.5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class TestQuantized:
    """One linear of the model as AWQ stores it; what it stands for is 1 throughout."""

    NAME = "model.layers.0.self_attn.q_proj.weight"
    QUANTIZATION: ClassVar[dict[str, object]] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 16,
        "zero_point": True,
    }

    def packed(self, folder: Path, scale: float = 0.5) -> Path:
        tensors = load_file(folder / "model.safetensors")
        del tensors[self.NAME]
        module = self.NAME.removesuffix(".weight")
        tensors |= {
            f"{module}.qweight": torch.full((32, 4), 0x33333333, dtype=torch.int32),
            f"{module}.qzeros": torch.full((2, 4), 0x11111111, dtype=torch.int32),
            f"{module}.scales": torch.full((2, 32), scale, dtype=torch.float16),
        }
        save_file(tensors, folder / "model.safetensors")
        path = folder / "config.json"
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["quantization_config"] = self.QUANTIZATION
        path.write_text(json.dumps(fields), encoding="utf-8")
        return folder

    def test_a_checkpoint_in_float_has_no_codes(self, folder: Path) -> None:
        checkpoint = open_checkpoint(folder)
        assert checkpoint.quantized == checkpoint.dequantized == checkpoint.left_out == {}
        with pytest.raises(KeyError, match="q_proj"):
            checkpoint.matrix(self.NAME)

    def test_codes_and_what_they_stand_for_are_both_to_be_had(self, folder: Path) -> None:
        checkpoint = open_checkpoint(self.packed(folder))
        assert checkpoint.quantized == {self.NAME: StoredScheme("integer", 4, 16, symmetric=False)}
        matrix = checkpoint.matrix(self.NAME)
        assert set(matrix.codes.flat) == {3}
        assert set(matrix.zero_points.flat) == {1}
        assert len(list(checkpoint.matrices(self.NAME))) == 1
        np.testing.assert_array_equal(checkpoint.read(self.NAME), np.ones((32, 32), np.float16))

    def test_scales_that_are_not_finite_are_named_with_their_file(self, folder: Path) -> None:
        checkpoint = open_checkpoint(self.packed(folder, scale=float("inf")))
        for read in (checkpoint.read, checkpoint.matrix):
            with pytest.raises(
                CheckpointError, match=r"safetensors: .*q_proj\.scales holds 64 of 64"
            ):
                read(self.NAME)

    def test_the_configuration_of_the_model_is_that_of_one_in_float(
        self, folder: Path, tmp_path: Path
    ) -> None:
        checkpoint = open_checkpoint(self.packed(folder))
        checkpoint.save_config(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        assert "quantization_config" not in saved

    def test_packed_tensors_need_a_configuration(self, folder: Path) -> None:
        path = self.packed(folder) / "config.json"
        fields = json.loads(path.read_text(encoding="utf-8"))
        del fields["quantization_config"]
        path.write_text(json.dumps(fields), encoding="utf-8")
        with pytest.raises(CheckpointError, match="has no quantization_config that"):
            open_checkpoint(folder)

    def test_a_file_that_says_how_the_weights_are_stored_is_hashed_too(self, folder: Path) -> None:
        path = self.packed(folder) / "config.json"
        fields = json.loads(path.read_text(encoding="utf-8"))
        old = fields.pop("quantization_config") | {"w_bit": 4}
        path.write_text(json.dumps(fields), encoding="utf-8")
        (folder / "quant_config.json").write_text(json.dumps(old), encoding="utf-8")
        (folder / "quantize_config.json").write_text('{"of": "another tool"}', encoding="utf-8")
        names = ("model.safetensors", "config.json", "quant_config.json")
        content = b"".join((folder / name).read_bytes() for name in names)
        checkpoint = open_checkpoint(folder)
        assert checkpoint.sha256() == hashlib.sha256(content).hexdigest()
        assert checkpoint.hashed_bytes == len(content)
