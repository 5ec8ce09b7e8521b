from __future__ import annotations

import tracemalloc
from collections.abc import Mapping

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.readers.gguf_file import GgufReader

Kind = gguf.GGMLQuantizationType
QUERY, KEY = "blk.0.attn_q.weight", "blk.0.attn_k.weight"
HF_QUERY = "model.layers.0.self_attn.q_proj.weight"
HF_KEY = "model.layers.0.self_attn.k_proj.weight"


def test_lists_the_tensors_under_their_hugging_face_names(write_gguf):
    reader = GgufReader(write_gguf())
    assert set(reader.tensors) == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    }
    assert reader.tensors["model.layers.0.mlp.down_proj.weight"].shape == (64, 128)


def test_restores_the_order_of_query_and_key_rows_of_llama(write_gguf, truth):
    reader = GgufReader(write_gguf())
    np.testing.assert_array_equal(reader.read(HF_QUERY), truth[QUERY])
    np.testing.assert_array_equal(reader.read(HF_KEY), truth[KEY])


def test_restores_the_order_of_packed_query_rows(write_gguf, truth):
    reader = GgufReader(write_gguf(kinds={QUERY: Kind.Q8_0}))
    expected = dequantize(quantize(truth[QUERY], Kind.Q8_0), Kind.Q8_0)
    np.testing.assert_array_equal(reader.read(HF_QUERY), expected)


def test_restores_the_order_of_query_biases_of_llama(write_gguf):
    bias = np.arange(64, dtype=np.float32)
    reader = GgufReader(write_gguf(extra={"blk.0.attn_q.bias": bias}))
    np.testing.assert_array_equal(reader.read("model.layers.0.self_attn.q_proj.bias"), bias)
    assert reader.config().attention_bias


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_leaves_query_and_key_rows_alone_where_llama_cpp_does(architecture, write_gguf, truth):
    reader = GgufReader(write_gguf(architecture))
    np.testing.assert_array_equal(reader.read(HF_QUERY), truth[QUERY])
    np.testing.assert_array_equal(reader.read(HF_KEY), truth[KEY])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(Kind.F32, np.float32), (Kind.F16, np.float16), (Kind.BF16, ml_dtypes.bfloat16)],
)
def test_keeps_plain_numbers_in_their_dtype(kind, dtype, write_gguf, truth):
    reader = GgufReader(write_gguf(kinds={"blk.0.ffn_up.weight": kind}))
    array = reader.read("model.layers.0.mlp.up_proj.weight")
    assert array.dtype == reader.tensors["model.layers.0.mlp.up_proj.weight"].dtype == dtype
    np.testing.assert_array_equal(array, truth["blk.0.ffn_up.weight"].astype(dtype))


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_unpacks_quantized_tensors_to_float32(kind, write_gguf, truth):
    reader = GgufReader(write_gguf(kinds={"blk.0.ffn_up.weight": kind}))
    array = reader.read("model.layers.0.mlp.up_proj.weight")
    weight = truth["blk.0.ffn_up.weight"]
    assert array.dtype == reader.tensors["model.layers.0.mlp.up_proj.weight"].dtype == np.float32
    np.testing.assert_array_equal(array, dequantize(quantize(weight, kind), kind))
    bits = int(kind.name[1])
    blocks = weight.reshape(-1, 32)
    step = np.abs(blocks).max(axis=1, keepdims=True) / 2 ** (bits - 1)
    assert (np.abs(array.reshape(-1, 32) - blocks) <= 1.1 * step).all()


def test_unpacks_a_tensor_in_pieces_to_the_same_numbers(write_gguf, truth, monkeypatch):
    reader = GgufReader(write_gguf(kinds={"token_embd.weight": Kind.Q8_0}))
    monkeypatch.setattr("castline.exporters.readers.gguf_file._CHUNK", 7 * 64)
    expected = dequantize(quantize(truth["token_embd.weight"], Kind.Q8_0), Kind.Q8_0)
    np.testing.assert_array_equal(reader.read("model.embed_tokens.weight"), expected)


def test_unpacks_with_little_memory_beside_the_tensor(write_gguf):
    weight = np.ones((8192, 1024), np.float32)  # 32 MiB
    path = write_gguf(extra={"output.weight": weight}, kinds={"output.weight": Kind.Q8_0})
    reader = GgufReader(path)
    tracemalloc.start()
    array = reader.read("lm_head.weight")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.2 * array.nbytes


def test_leaves_the_rotary_factors_of_llama_3_out_of_the_weights(write_gguf):
    reader = GgufReader(write_gguf(extra={"rope_freqs.weight": np.ones(8, np.float32)}))
    assert not any("rope" in name for name in reader.tensors)


def test_names_every_tensor_without_a_counterpart(write_gguf):
    expert = np.zeros((2, 4, 32), np.float32)
    extra = {"blk.0.ffn_gate_exps.weight": expert, "blk.0.ffn_up_exps.weight": expert}
    with pytest.raises(UnsupportedArchitectureError, match=r"ffn_gate_exps.*ffn_up_exps"):
        GgufReader(write_gguf(extra=extra))


def test_refuses_a_tensor_type_that_nobody_unpacks(write_gguf):
    extra = {"output.weight": np.zeros((96, 64), np.int8)}
    with pytest.raises(CheckpointError, match=r"output\.weight \(I8\)"):
        GgufReader(write_gguf(extra=extra))


def test_refuses_query_rows_that_the_heads_do_not_share(write_gguf):
    with pytest.raises(CheckpointError, match=r"attn_q\.weight has 64 rows, which 5 heads"):
        GgufReader(write_gguf(metadata={"llama.attention.head_count": 5}))


def test_refuses_one_part_of_a_split_file(write_gguf):
    with pytest.raises(CheckpointError, match=r"one of 3 parts.*llama-gguf-split --merge"):
        GgufReader(write_gguf(metadata={"split.count": 3}))


def test_refuses_a_file_that_shrank_after_opening(write_gguf):
    path = write_gguf()
    reader = GgufReader(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 64)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        reader.read("model.norm.weight")


def test_tells_which_file_a_tensor_is_in(write_gguf):
    path = write_gguf()
    reader = GgufReader(path)
    assert reader.file_of("model.norm.weight") == path
    assert reader.files == (path,)


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0])
def test_hands_out_the_codes_of_linears_with_their_rows_in_hugging_face_order(
    kind, write_gguf, truth
):
    reader = GgufReader(write_gguf(kinds={QUERY: kind, "token_embd.weight": Kind.Q8_0}))
    assert list(reader.stored) == [HF_QUERY]
    linear = reader.stored[HF_QUERY]
    assert linear.spec == reader.tensors[HF_QUERY]
    assert (linear.scheme.group_size, linear.scheme.bits) == (32, int(kind.name[1]))
    assert linear.scheme.has_offsets == (kind == Kind.Q4_1)
    matrix = reader.matrix(HF_QUERY)
    expected = dequantize(quantize(truth[QUERY], kind), kind)
    np.testing.assert_allclose(matrix.weight(), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(matrix.weight(), reader.read(HF_QUERY), rtol=0, atol=1e-6)


def test_says_of_which_quantized_tensors_only_the_values_are_handed_out(write_gguf):
    kinds = {"token_embd.weight": Kind.Q8_0, QUERY: Kind.Q5_0, "blk.0.ffn_up.weight": Kind.Q4_0}
    reader = GgufReader(write_gguf(kinds=kinds))
    assert set(reader.stored) == {"model.layers.0.mlp.up_proj.weight"}
    assert set(reader.dequantized) == {"model.embed_tokens.weight", HF_QUERY}
    assert "Q5_0" in reader.dequantized[HF_QUERY]


def test_names_the_tensor_whose_scales_are_not_finite(write_gguf):
    path = write_gguf(kinds={"blk.0.ffn_up.weight": Kind.Q8_0})
    reader = GgufReader(path)
    tensor = next(t for t in reader.header.tensors if t.name == "blk.0.ffn_up.weight")
    with path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.float16(np.inf).tobytes())
    with pytest.raises(CheckpointError, match=r"ffn_up\.weight \(scales\) holds 1 of"):
        reader.matrix("model.layers.0.mlp.up_proj.weight")


@pytest.mark.slow
def test_the_codes_of_a_real_file_stand_for_the_weights_that_are_read(smollm2_gguf):
    reader = GgufReader(smollm2_gguf)
    assert len(reader.stored) == 210
    assert list(reader.dequantized) == ["model.embed_tokens.weight"]
    for name in reader.stored:
        np.testing.assert_array_equal(reader.matrix(name).weight(), reader.read(name), err_msg=name)


@pytest.mark.slow
def test_reads_every_tensor_of_a_real_file_as_transformers_does(smollm2_gguf):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name
    )
    reader = GgufReader(smollm2_gguf)
    expected: Mapping[str, object] = dict(model.named_parameters())
    assert set(reader.tensors) == set(expected)
    assert len(reader.tensors) == 272
    for name, parameter in expected.items():
        np.testing.assert_array_equal(reader.read(name), parameter.detach().numpy(), err_msg=name)
