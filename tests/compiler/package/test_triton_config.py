"""config.pbtxt is a ModelConfig in protobuf's text format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from google.protobuf import text_format

from castline.compiler.package.triton_config import (
    TritonModel,
    TritonTensor,
    WarmUp,
    config_text,
)

IDS = TritonTensor("input_ids", "TYPE_INT64", (-1,))
CACHE = TritonTensor("past_key_values.0.key", "TYPE_FP16", (2, -1, 64))
LOGITS = TritonTensor("logits", "TYPE_FP16", (-1, 160))
MODEL = TritonModel(
    name="tiny",
    backend="tensorrt",
    max_batch_size=4,
    joins_requests=False,
    inputs=(IDS, CACHE),
    outputs=(LOGITS,),
    on_gpu=True,
    profiles=2,
    warm_ups=(
        WarmUp(
            "decode", {"input_ids": (1,), "past_key_values.0.key": (2, 8, 64)}, {"input_ids": "f"}
        ),
    ),
)


def test_every_field_is_read_back(triton_config: Any) -> None:
    found = text_format.Parse(config_text(MODEL), triton_config())
    assert (found.name, found.backend, found.max_batch_size) == ("tiny", "tensorrt", 4)
    assert found.version_policy.latest.num_versions == 1
    assert [(one.name, one.data_type, list(one.dims)) for one in found.input] == [
        ("input_ids", 9, [-1]),
        ("past_key_values.0.key", 10, [2, -1, 64]),
    ]
    assert [(one.name, list(one.dims)) for one in found.output] == [("logits", [-1, 160])]
    (instances,) = found.instance_group
    assert (instances.count, instances.kind, list(instances.profile)) == (1, 1, ["0", "1"])
    (warm_up,) = found.model_warmup
    read, zeros = (one.value for one in warm_up.inputs)
    assert (warm_up.name, warm_up.batch_size) == ("decode", 1)
    assert (read.input_data_file, read.zero_data, list(read.dims)) == ("f", False, [1])
    assert (zeros.input_data_file, zeros.zero_data, list(zeros.dims)) == ("", True, [2, 8, 64])


def test_only_where_requests_are_joined_is_there_a_batcher(triton_config: Any) -> None:
    for joins in (False, True):
        text = config_text(replace(MODEL, joins_requests=joins))
        found = text_format.Parse(text, triton_config())
        assert found.HasField("dynamic_batching") is joins


def test_on_a_cpu_an_instance_has_no_profile(triton_config: Any) -> None:
    text = config_text(replace(MODEL, on_gpu=False, profiles=0))
    (instances,) = text_format.Parse(text, triton_config()).instance_group
    assert (instances.kind, list(instances.profile)) == (2, [])
