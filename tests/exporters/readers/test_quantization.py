from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.autoawq import AutoAwq
from castline.exporters.readers.compressed_tensors import CompressedTensors
from castline.exporters.readers.gptq import Gptq
from castline.exporters.readers.modelopt import ModelOpt
from castline.exporters.readers.quantization import side_files, stored_format

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}
GROUPS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}}}
COMPRESSED = {"format": "int-quantized", "config_groups": GROUPS}
FP8 = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}


def folder_with(folder: Path, **files: object) -> Path:
    (folder / "config.json").write_text("{}", encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_folder_in_float_has_none(tmp_path: Path) -> None:
    assert stored_format(folder_with(tmp_path, config={"model_type": "llama"})) is None


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (AWQ, AutoAwq),
        (GPTQ | {"quant_method": "GPTQ"}, Gptq),
        (COMPRESSED | {"quant_method": "compressed-tensors"}, CompressedTensors),
        (COMPRESSED, CompressedTensors),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, ModelOpt),
    ],
)
def test_quant_method_chooses(fields: dict[str, Any], kind: type, tmp_path: Path) -> None:
    assert isinstance(
        stored_format(folder_with(tmp_path, config={"quantization_config": fields})), kind
    )


def test_a_compression_config_is_read_as_well(tmp_path: Path) -> None:
    config = {"compression_config": {"quantization_config": COMPRESSED}}
    assert isinstance(stored_format(folder_with(tmp_path, config=config)), CompressedTensors)


@pytest.mark.parametrize("config", [{}, {"quantization_config": {"quant_method": "modelopt"}}])
def test_modelopt_has_a_file_of_its_own(config: dict[str, Any], tmp_path: Path) -> None:
    if config:
        config["quantization_config"] |= {"quant_algo": "FP8", "ignore": ["lm_head"]}
    folder = folder_with(tmp_path, config=config, hf_quant_config=FP8)
    assert isinstance(stored_format(folder), ModelOpt)


def test_two_files_of_modelopt_that_differ_are_refused(tmp_path: Path) -> None:
    other = {"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL"}
    folder = folder_with(tmp_path, config={"quantization_config": other}, hf_quant_config=FP8)
    with pytest.raises(CheckpointError, match="describe ModelOpt's quantization differently"):
        stored_format(folder)


def test_the_files_that_older_tools_wrote_are_read(tmp_path: Path) -> None:
    old = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    assert isinstance(stored_format(folder_with(tmp_path, quantize_config=old)), Gptq)
    (tmp_path / "quantize_config.json").unlink()
    older = {"w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"}
    assert isinstance(stored_format(folder_with(tmp_path, quant_config=older)), AutoAwq)


def test_the_files_that_were_read_are_told(tmp_path: Path) -> None:
    old = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    folder = folder_with(tmp_path, quantize_config=old, quant_config={"kind": "other"})
    assert side_files(folder) == (folder / "quantize_config.json",)
    assert side_files(folder_with(tmp_path, config={"quantization_config": GPTQ})) == ()
    folder_with(tmp_path, config={}, hf_quant_config=FP8)
    assert side_files(folder) == (folder / "hf_quant_config.json",)


def test_other_files_of_these_names_say_nothing(tmp_path: Path) -> None:
    assert stored_format(folder_with(tmp_path, quant_config={"kind": "other"})) is None


def test_config_json_counts_before_the_files_of_older_tools(tmp_path: Path) -> None:
    config = {"quantization_config": AWQ}
    folder = folder_with(tmp_path, config=config, quantize_config={"bits": 3, "group_size": 64})
    assert stored_format(folder) == AutoAwq("gemm", 128, symmetric=False)


def test_two_methods_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, config={"quantization_config": AWQ}, hf_quant_config=FP8)
    with pytest.raises(CheckpointError, match=r"mixes formats: awq \(config\.json\) and modelopt"):
        stored_format(folder)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("aqlm", "no evenly spaced values"),
        ("bitsandbytes", "keeps outliers apart"),
        ("fp8", "blocks of rows and columns"),
        ("torchao", "objects of torchao"),
        ("auto-round", "AutoRound also writes auto_gptq"),
        ("tomorrow", "no format of this name"),
    ],
)
def test_other_methods_are_refused_with_the_reason_and_a_way_out(
    method: str, reason: str, tmp_path: Path
) -> None:
    config = {"quantization_config": {"quant_method": method}}
    message = rf"config\.json: .*quantized by {method}, .*{reason}.*Use the original checkpoint"
    with pytest.raises(CheckpointError, match=message):
        stored_format(folder_with(tmp_path, config=config))


@pytest.mark.parametrize("fields", [{"bits": 4}, {"quant_method": None}, ["awq"], "awq"])
def test_a_configuration_without_a_method_is_refused(fields: object, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, config={"quantization_config": fields})
    with pytest.raises(CheckpointError, match="does not state quant_method"):
        stored_format(folder)


def test_a_field_that_cannot_be_is_told_with_its_file(tmp_path: Path) -> None:
    config = {"quantization_config": AWQ | {"bits": 5}}
    with pytest.raises(CheckpointError, match=r"config\.json: bits is 5, expected 4\.$"):
        stored_format(folder_with(tmp_path, config=config))
