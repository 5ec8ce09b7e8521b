from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.compressed_tensors import CompressedTensors
from castline.exporters.readers.stored import StoredFormat
from castline.exporters.readers.tensors import TensorSpec

LAYERS = "model.layers"
HALF = np.dtype(np.float16)


def compressed_tensors(**changes: Any) -> CompressedTensors:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}
    fields = {
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    return CompressedTensors.of(fields | changes)


def packed(module: str) -> dict[str, TensorSpec]:
    return {
        f"{module}.weight_packed": TensorSpec((6, 8), np.dtype(np.int32)),
        f"{module}.weight_scale": TensorSpec((6, 2), HALF),
        f"{module}.weight_shape": TensorSpec((2,), np.dtype(np.int64)),
    }


def test_lists_the_linears_by_the_names_of_their_weights():
    form: StoredFormat = compressed_tensors()
    tensors = packed(f"{LAYERS}.0.up") | packed(f"{LAYERS}.1.up")
    plain = {
        "model.norm.weight": TensorSpec((64,), HALF),
        "lm_head.weight": TensorSpec((9, 64), HALF),
    }
    linears = form.linears(tensors | plain)
    assert list(linears) == [f"{LAYERS}.0.up.weight", f"{LAYERS}.1.up.weight"]
    parts = {name for linear in linears.values() for name in linear.parts.values()}
    assert parts == set(tensors)
    assert form.name == "compressed-tensors"


def test_reads_one_linear_by_its_group():
    form = compressed_tensors()
    linears = form.linears(packed("up"))
    arrays = {
        "up.weight_packed": np.full((6, 8), 0x76543210, np.int32),
        "up.weight_scale": np.full((6, 2), 0.5, np.float16),
        "up.weight_shape": np.array([6, 64]),
    }
    matrix = form.matrix("up.weight", linears["up.weight"], arrays.__getitem__)
    assert matrix.codes[5].tolist() == [*range(-8, 0)] * 8
    assert matrix.weight()[0, :3].tolist() == [-4, -3.5, -3]


def test_leaves_the_scales_of_a_quantized_cache_out():
    names = [f"{LAYERS}.0.self_attn.k_scale", f"{LAYERS}.0.self_attn.v_scale"]
    tensors = dict.fromkeys(names, TensorSpec((1,), HALF))
    form = compressed_tensors(kv_cache_scheme={"num_bits": 8, "type": "float"})
    assert list(form.set_aside(tensors | packed("up"))) == names


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (packed("lm_head"), r"lm_head is stored quantized, and is in `ignore`"),
        (
            {f"{LAYERS}.1.up.weight": TensorSpec((6, 64), HALF)},
            rf"{LAYERS}\.1\.up\.weight is float16, and the configuration has it quantized",
        ),
        (
            {"down.weight": TensorSpec((6, 64), np.dtype(np.int8))},
            r"down\.weight is int8, and no scales of its own",
        ),
    ],
)
def test_names_tensors_that_contradict_the_configuration(tensors, said):
    with pytest.raises(CheckpointError, match=rf"compressed-tensors configuration: {said}"):
        compressed_tensors().linears(packed(f"{LAYERS}.0.up") | tensors)


def test_names_a_module_that_no_group_is_for():
    groups = {"g": {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 4, "group_size": 32}}}
    with pytest.raises(CheckpointError, match="q_proj is stored quantized, and is in no config_gr"):
        compressed_tensors(config_groups=groups).linears(packed("q_proj"))


def test_tells_the_contradictions_of_all_tensors_at_once():
    short = {"up.weight_scale": TensorSpec((5, 2), HALF)}
    other = {"down.weight_packed": TensorSpec((6, 9), np.dtype(np.int32))}
    tensors = packed("up") | packed("down") | short | other
    with pytest.raises(CheckpointError, match=r"up\.weight_scale.*; down\.weight_packed"):
        compressed_tensors().linears(tensors)
