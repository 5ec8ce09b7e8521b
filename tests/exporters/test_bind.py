from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from castline.compiler.targets.write import write_model
from castline.errors import CheckpointError

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
TIED = "qwen2"


@pytest.fixture
def llama(sample: Callable[[str], Any]) -> Any:
    return sample("llama")


def test_reads_nothing_before_writing_and_each_tensor_once_then(
    each_sample: Any, tmp_path: Path
) -> None:
    checkpoint = each_sample.checkpoint()
    model = each_sample.graph(checkpoint=checkpoint)
    assert checkpoint.reader.reads == {}
    write_model(model, tmp_path)
    assert checkpoint.reader.reads == dict.fromkeys(checkpoint.tensors, 1)


def test_initializers_have_the_names_of_the_checkpoint(each_sample: Any) -> None:
    checkpoint = each_sample.checkpoint()
    initializers = each_sample.graph(checkpoint=checkpoint).graph.initializers
    weights = {name for name, value in initializers.items() if name in checkpoint.tensors}
    assert weights == set(checkpoint.tensors)
    assert all(initializers[name].name == name for name in weights)


def test_a_linear_is_stored_as_it_is_multiplied(llama: Any) -> None:
    graph = llama.graph().graph
    name = "model.layers.1.mlp.down_proj.weight"
    weight = graph.initializers[name]
    np.testing.assert_array_equal(weight.const_value.numpy(), llama.arrays()[name].T)
    assert weight.shape == (96, 64)
    assert [node.op_type for node in weight.consumers()] == ["MatMul"]


def test_a_tied_embedding_is_stored_once(sample: Callable[[str], Any], tmp_path: Path) -> None:
    model = onnx.load(sample(TIED).written(tmp_path), load_external_data=False)
    stored = [t.name for t in model.graph.initializer if list(t.dims) in ([131, 64], [64, 131])]
    assert stored == [EMBEDDING]
    readers = sorted(node.op_type for node in model.graph.node if EMBEDDING in node.input)
    assert readers == ["Gather", "Transpose"]


def test_a_tied_weight_may_be_stored_under_either_name_or_both(
    sample: Callable[[str], Any],
) -> None:
    tied = sample(TIED)
    arrays = tied.arrays()
    under_head = {HEAD: arrays[EMBEDDING]} | {n: a for n, a in arrays.items() if n != EMBEDDING}
    for stored, name in ((arrays | {HEAD: arrays[EMBEDDING]}, EMBEDDING), (under_head, HEAD)):
        initializers = tied.graph(checkpoint=tied.checkpoint(stored)).graph.initializers
        assert [n for n in (EMBEDDING, HEAD) if n in initializers] == [name]


def test_names_all_that_is_wrong_in_one_message(llama: Any) -> None:
    arrays = llama.arrays()
    del arrays["model.norm.weight"]
    del arrays["model.layers.2.mlp.up_proj.weight"]
    arrays["model.layers.3.mlp.up_proj.weight"] = np.zeros((96, 64), np.float32)
    arrays[HEAD] = np.zeros((130, 64), np.float32)
    with pytest.raises(CheckpointError) as error:
        llama.graph(checkpoint=llama.checkpoint(arrays))
    message = str(error.value)
    assert message.startswith("tiny: ")
    assert "2 missing: model.layers.2.mlp.up_proj.weight, model.norm.weight;" in message
    assert "1 surplus: model.layers.3.mlp.up_proj.weight;" in message
    assert "1 misshapen: lm_head.weight is [130, 64], config.json makes it [131, 64]." in message


def test_a_long_list_of_names_is_cut_short(llama: Any) -> None:
    surplus = {f"extra.{i}": np.zeros(1, np.float32) for i in range(40)}
    with pytest.raises(CheckpointError, match=r"40 surplus: extra\.0, .* and 28 more") as error:
        llama.graph(checkpoint=llama.checkpoint(llama.arrays() | surplus))
    assert str(error.value).count("extra.") == 12


def test_names_the_weight_that_holds_a_nan(llama: Any, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    arrays = llama.arrays()
    arrays[name] = np.where(np.arange(64) == 5, np.float32(np.nan), arrays[name])
    model = llama.graph(checkpoint=llama.checkpoint(arrays))
    with pytest.raises(CheckpointError, match=rf"{name} holds 96 of 6144 values that are NaN"):
        write_model(model, tmp_path)
