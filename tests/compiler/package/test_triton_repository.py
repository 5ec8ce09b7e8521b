"""A compiled folder becomes a model of Triton's, whole or not at all, and versions are added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format

from castline.compiler.package.manifest import read_manifest, verify
from castline.compiler.package.triton_repository import write_repository
from castline.compiler.package.verification import verified
from castline.errors import OutputError

NUMPY = {"TYPE_INT64": np.int64, "TYPE_FP32": np.float32}
PROFILES = [
    {"input_ids": [[1, 1], [1, 16], [4, 64]]},
    {"input_ids": [[1, 1], [1, 1], [3, 1]]},
]
ENGINE = {
    "target": "tensorrt",
    "build": {"engine": "model.engine", "edition": "tensorrt", "profiles": PROFILES},
}
PLUGINS = {"library": "plugins/libcastline_plugins.so", "sha256": "0"}


def config(repository: Path, triton_config: Callable[[], Any], name: str = "tiny") -> Any:
    text = (repository / name / "config.pbtxt").read_text()
    return text_format.Parse(text, triton_config())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_decoder_is_served_row_by_row_on_onnx_runtime(
    compiled_folder: Any, triton_config: Any, tmp_path: Path
) -> None:
    placed = write_repository(compiled_folder(), tmp_path / "models")
    assert placed.folder == tmp_path / "models" / "tiny" / "1"
    found = config(tmp_path / "models", triton_config)
    assert (found.name, found.backend, found.max_batch_size) == ("tiny", "onnxruntime", 1)
    assert not found.HasField("dynamic_batching")
    assert found.instance_group[0].kind == 2, "KIND_CPU"
    dims = {one.name: list(one.dims) for one in (*found.input, *found.output)}
    assert dims == {
        "input_ids": [-1],
        "attention_mask": [-1],
        "past_key_values.0.key": [1, -1, 1],
        "logits": [-1, 1],
        "present.0.key": [1, -1, 1],
    }
    assert names(placed.folder) == [
        "README.md", "manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json",
    ]  # fmt: skip


def test_what_it_warms_up_with_runs_and_holds_no_padding(
    compiled_folder: Any, triton_config: Any, tmp_path: Path
) -> None:
    placed = write_repository(compiled_folder(), tmp_path / "models")
    session = onnxruntime.InferenceSession(
        placed.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    found = config(tmp_path / "models", triton_config)
    lengths = {}
    for warm_up in found.model_warmup:
        feed = {}
        for one in warm_up.inputs:
            dtype = NUMPY[
                one.value.DESCRIPTOR.fields_by_name["data_type"]
                .enum_type.values_by_number[one.value.data_type]
                .name
            ]
            shape = (warm_up.batch_size, *one.value.dims)
            file = tmp_path / "models" / "tiny" / "warmup" / one.value.input_data_file
            assert one.value.zero_data != bool(one.value.input_data_file)
            data = np.zeros(shape, dtype) if one.value.zero_data else np.fromfile(file, dtype)
            feed[one.key] = data.reshape(shape)
        logits, present = session.run(None, feed)
        assert feed["attention_mask"].all(), "a row of padding alone has no answer"
        assert present.shape[2] == feed["attention_mask"].shape[1]
        lengths[warm_up.name] = logits.shape[1]
    assert lengths == {"prefill": 8, "decode": 1}


def test_a_folder_for_cuda_is_served_on_gpus(
    compiled_folder: Any, triton_config: Any, tmp_path: Path
) -> None:
    write_repository(compiled_folder(build={"provider": "cuda"}), tmp_path / "models")
    assert config(tmp_path / "models", triton_config).instance_group[0].kind == 1, "KIND_GPU"


def test_requests_of_an_encoder_are_joined(
    compiled_folder: Any, triton_config: Any, tmp_path: Path
) -> None:
    write_repository(compiled_folder(kind="encoder"), tmp_path / "models", max_batch_size=16)
    found = config(tmp_path / "models", triton_config)
    assert found.max_batch_size == 16
    assert found.HasField("dynamic_batching")
    assert [warm_up.name for warm_up in found.model_warmup] == ["encode"]


def test_an_engine_is_a_plan_with_its_profiles_and_plugins(
    compiled_folder: Any, triton_config: Any, tmp_path: Path
) -> None:
    facts = {**ENGINE, "build": {**ENGINE["build"], "plugins": PLUGINS}}  # type: ignore[dict-item]
    placed = write_repository(compiled_folder(**facts), tmp_path / "models")
    found = config(tmp_path / "models", triton_config)
    assert (found.backend, found.instance_group[0].kind) == ("tensorrt", 1)
    assert list(found.instance_group[0].profile) == ["0", "1"]
    assert names(placed.folder) == [
        "README.md", "manifest.json", "model.plan", "plugins", "tokenizer.json",
    ]  # fmt: skip
    assert read_manifest(placed.folder)["build"]["engine"] == "model.plan"  # type: ignore[index]
    command = "--backend-config=tensorrt,plugins=plugins/libcastline_plugins.so"
    assert command in (placed.folder / "README.md").read_text()


def test_an_engine_whose_logits_were_cut_says_so(
    compiled_folder: Any, triton_config: Any, tmp_path: Path
) -> None:
    facts = {**ENGINE, "build": {**ENGINE["build"], "logits": "last"}}  # type: ignore[dict-item]
    write_repository(compiled_folder(**facts), tmp_path / "models")
    outputs = config(tmp_path / "models", triton_config).output
    assert {one.name: list(one.dims) for one in outputs}["logits"] == [1, 1]


def test_an_encoder_takes_the_rows_that_every_profile_takes(
    compiled_folder: Any, tmp_path: Path
) -> None:
    folder = compiled_folder(kind="encoder", **ENGINE)
    assert write_repository(folder, tmp_path / "models").model.max_batch_size == 3
    with pytest.raises(OutputError, match="4 rows in a request: expected 1 to 3"):
        write_repository(folder, tmp_path / "more", max_batch_size=4)
    assert not (tmp_path / "more").exists()


def test_a_version_is_added_beside_and_the_tuned_configuration_stays(
    compiled_folder: Any, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    write_repository(compiled_folder(), models)
    text = (models / "tiny" / "config.pbtxt").read_text()
    (models / "tiny" / "config.pbtxt").write_text(text.replace("count: 1", "count: 2"))
    placed = write_repository(
        compiled_folder("other", dtype="float16"), models, name="tiny", version=2
    )
    assert names(models / "tiny") == ["1", "2", "config.pbtxt", "warmup"]
    assert "count: 2" in (models / "tiny" / "config.pbtxt").read_text()
    assert verify(placed.folder) == []
    first, second = verified(models)
    assert first.differences == ("../config.pbtxt has other content (SHA-256) than was written",)
    assert second.differences == (), "it was added to the configuration as it was then"


def test_a_version_that_is_there_is_replaced_only_on_request(
    compiled_folder: Any, tmp_path: Path
) -> None:
    folder = compiled_folder()
    write_repository(folder, tmp_path / "models")
    with pytest.raises(OutputError, match="exists already"):
        write_repository(folder, tmp_path / "models")
    write_repository(folder, tmp_path / "models", overwrite=True)
    assert [one.differences for one in verified(tmp_path / "models" / "tiny")] == [()]


def test_a_version_with_other_inputs_is_refused(compiled_folder: Any, tmp_path: Path) -> None:
    write_repository(compiled_folder(), tmp_path / "models")
    other = compiled_folder("encoder", kind="encoder")
    with pytest.raises(OutputError, match="version 1 has other inputs"):
        write_repository(other, tmp_path / "models", name="tiny", version=2)
    assert names(tmp_path / "models" / "tiny") == ["1", "config.pbtxt", "warmup"]


def test_the_same_folder_gives_the_same_bytes(compiled_folder: Any, tmp_path: Path) -> None:
    folder = compiled_folder()
    contents = []
    for repository in (tmp_path / "a", tmp_path / "b"):
        write_repository(folder, repository)
        files = sorted(path for path in repository.rglob("*") if path.is_file())
        contents.append([(str(f.relative_to(repository)), f.read_bytes()) for f in files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"target": "tensorrt-rtx"}, "another product"),
        ({"target": "huggingface"}, "holds a checkpoint"),
        ({"build": {"provider": "tensorrt-rtx"}}, "--provider cuda or cpu"),
        ({"kind": "fixed"}, "--kv-cache growing"),
        ({"package": {"kind": "tar"}}, r"itself a package \(tar\)"),
    ],
)
def test_says_what_triton_does_not_run(
    compiled_folder: Any, tmp_path: Path, facts: dict[str, Any], words: str
) -> None:
    with pytest.raises(OutputError, match=words):
        write_repository(compiled_folder(**facts), tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", 'a"b', "modèle"])
def test_names_that_cannot_be_an_address_are_refused(
    compiled_folder: Any, tmp_path: Path, name: str
) -> None:
    with pytest.raises(OutputError, match="cannot be the name of a model"):
        write_repository(compiled_folder(), tmp_path / "models", name=name)


def test_an_edited_folder_and_a_version_of_zero_are_refused(
    compiled_folder: Any, tmp_path: Path
) -> None:
    folder = compiled_folder()
    with pytest.raises(OutputError, match="version 0: expected 1 or more"):
        write_repository(folder, tmp_path / "models", version=0)
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(OutputError, match=r"tokenizer\.json has other content"):
        write_repository(folder, tmp_path / "models")


def test_what_is_in_the_way_of_a_repository_is_named(compiled_folder: Any, tmp_path: Path) -> None:
    folder = compiled_folder()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is no folder; give that of a model repository"):
        write_repository(folder, tmp_path / "file")
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    with pytest.raises(OutputError, match="Castline did not put there"):
        write_repository(folder, tmp_path / "models")
