"""Sessions keep the cache, the mask and the positions right, shown on graphs known by hand.

The graphs here have the inputs and outputs of a decoder, and one function: the likeliest next token
is (the sum of all tokens so far that are not padding + the position of the last) modulo VOCABULARY.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from castline.compiler.targets.sampling import Sampling
from castline.compiler.targets.session import DecoderSession
from castline.errors import TargetError

VOCABULARY = 50

# Cache tensors hold one number a token: the key is the token itself, the value its position.
GROWING = """
<ir_version: 10, opset_import: ["" : 21]>
decoder (int64[B, S] input_ids, int64[B, T] attention_mask, int64[B, S] position_ids,
         TYPE[B, 1, P, 1] past_key, TYPE[B, 1, P, 1] past_value)
     => (TYPE[B, S, 50] logits, TYPE[B, 1, T, 1] present_key, TYPE[B, 1, T, 1] present_value)
<int64[4] column = {0, 1, -1, 1}, int64[4] line = {0, 1, 1, -1}, int64 last = {3},
 int64[1] minus_one = {-1}, float vocabulary = {50}, int64 zero = {0}, int64 fifty = {50},
 int64 one = {1}, int64[1] axis_1 = {1}, int64[1] far = {9999}>
{
    tokens = Cast <to: int = ELEMENT> (input_ids)
    key = Reshape (tokens, column)
    positions_wide = Cast <to: int = ELEMENT> (position_ids)
    value = Reshape (positions_wide, column)
    present_key = Concat <axis: int = 2> (past_key, key)
    present_value = Concat <axis: int = 2> (past_value, value)
    rows = Shape (attention_mask)
    all_tokens = Reshape (present_key, rows)
    all_tokens_f = Cast <to: int = 1> (all_tokens)
    mask = Cast <to: int = 1> (attention_mask)
    seen = Mul (all_tokens_f, mask)
    sums = CumSum (seen, one)
    new = Shape <start: int = 1, end: int = 2> (input_ids)
    start = Neg (new)
    new_sums = Slice (sums, start, far, axis_1)
    position = Cast <to: int = 1> (position_ids)
    total = Add (new_sums, position)
    wanted = Mod <fmod: int = 1> (total, vocabulary)
    wanted_column = Unsqueeze (wanted, minus_one)
    words = Range (zero, fifty, one)
    words_f = Cast <to: int = 1> (words)
    apart = Sub (words_f, wanted_column)
    distance = Abs (apart)
    negated = Neg (distance)
    logits = Cast <to: int = ELEMENT> (negated)
}
"""

# With zero queries attention is the mean of the values so far; times their number it is the sum.
SHARED = """
<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
decoder (int64[B, S] input_ids, int64[B, T] attention_mask, int64[B, S] position_ids,
         float[B, 1, P, 8] past_key, float[B, 1, P, 8] past_value)
     => (float[B, S, 50] logits, float[B, 1, T, 8] present_key, float[B, 1, T, 8] present_value)
<int64[1] minus_one = {-1}, float vocabulary = {50}, int64 zero = {0}, int64 fifty = {50},
 int64 one = {1}, float[8] spread = {1, 0, 0, 0, 0, 0, 0, 0}, int64[1] axis_1 = {1},
 float nothing = {0}, float one_f = {1}>
{
    tokens = Cast <to: int = 1> (input_ids)
    column = Unsqueeze (tokens, minus_one)
    value = Mul (column, spread)
    query = Mul (value, nothing)
    lengths = ReduceSum <keepdims: int = 0> (attention_mask, axis_1)
    before = Sub (lengths, one)
    seqlens = Cast <to: int = 6> (before)
    total_1 = Shape <start: int = 1, end: int = 2> (attention_mask)
    total_0 = Squeeze (total_1)
    total_length = Cast <to: int = 6> (total_0)
    mean_wide, present_key, present_value = com.microsoft.GroupQueryAttention
        <num_heads: int = 1, kv_num_heads: int = 1>
        (query, query, value, past_key, past_value, seqlens, total_length)
    mean = ReduceSum <keepdims: int = 0> (mean_wide, minus_one)
    position = Cast <to: int = 1> (position_ids)
    count = Add (position, one_f)
    sum_near = Mul (mean, count)
    sums = Round (sum_near)
    total = Add (sums, position)
    wanted = Mod <fmod: int = 1> (total, vocabulary)
    wanted_column = Unsqueeze (wanted, minus_one)
    words = Range (zero, fifty, one)
    words_f = Cast <to: int = 1> (words)
    apart = Sub (words_f, wanted_column)
    distance = Abs (apart)
    logits = Neg (distance)
}
"""


# ONNX's text form has no dots in names, so the graphs are written without.
NAMES = {
    "past_key": "past_key_values.0.key",
    "past_value": "past_key_values.0.value",
    "present_key": "present.0.key",
    "present_value": "present.0.value",
}


def save_decoder(text: str, folder: Path) -> None:
    model = onnx.parser.parse_model(text)
    for value in (*model.graph.input, *model.graph.output):
        value.name = NAMES.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [NAMES.get(name, name) for name in node.input]
        node.output[:] = [NAMES.get(name, name) for name in node.output]
    onnx.save(model, folder / "model.onnx")


def growing_decoder(folder: Path, kind: str = "float", element: int = 1) -> Path:
    save_decoder(GROWING.replace("TYPE", kind).replace("ELEMENT", str(element)), folder)
    return folder


def shared_decoder(folder: Path, context_length: int = 64) -> Path:
    save_decoder(SHARED, folder)
    config = {
        "model": {
            "context_length": context_length,
            "decoder": {"filename": "model.onnx", "head_size": 8},
        },
        "search": {"past_present_share_buffer": True},
    }
    (folder / "genai_config.json").write_text(json.dumps(config))
    return folder


DECODERS = pytest.mark.parametrize("decoder", [growing_decoder, shared_decoder])


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.int64)


def wanted(tokens: list[int], count: int) -> list[int]:
    """The next `count` tokens by the rule in this file's first lines, one by one."""
    result: list[int] = []
    for _ in range(count):
        so_far = tokens + result
        result.append((sum(so_far) + len(so_far) - 1) % VOCABULARY)
    return result


@DECODERS
def test_logits_of_a_batch_follow_the_tokens(decoder, tmp_path: Path) -> None:
    logits = DecoderSession.open(decoder(tmp_path), threads=1).logits(ids([1, 2, 3], [9, 0, 4]))
    assert logits.shape == (2, 3, VOCABULARY)
    assert logits.dtype == np.float32
    assert logits.argmax(-1).tolist() == [[1, 1 + 2 + 1, 6 + 2], [9, 9 + 1, 13 + 2]]


@DECODERS
def test_steps_with_a_cache_equal_one_prefill(decoder, tmp_path: Path) -> None:
    session = DecoderSession.open(decoder(tmp_path), threads=1)
    tokens = ids([5, 8, 2, 7, 1], [3, 3, 3, 1, 4])
    decoding = session.begin(2, 5)
    parts = [decoding.step(tokens[:, start:end]) for start, end in ((0, 3), (3, 4), (4, 5))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), session.logits(tokens))


@DECODERS
def test_generation_feeds_each_token_back(decoder, tmp_path: Path) -> None:
    session = DecoderSession.open(decoder(tmp_path), threads=1)
    assert list(session.generate(ids([3, 4]), max_new_tokens=6)) == wanted([3, 4], 6)


@DECODERS
def test_generation_ends_before_a_stop_token(decoder, tmp_path: Path) -> None:
    session = DecoderSession.open(decoder(tmp_path), threads=1)
    expected = wanted([3, 4], 6)
    stop = frozenset({expected[3]})
    assert list(session.generate(ids([3, 4]), max_new_tokens=6, stop=stop)) == expected[:3]


@DECODERS
def test_a_session_generates_the_same_again(decoder, tmp_path: Path) -> None:
    session = DecoderSession.open(decoder(tmp_path), threads=1)
    first = list(session.generate(ids([7]), max_new_tokens=5))
    assert list(session.generate(ids([7]), max_new_tokens=5)) == first


def test_generation_draws_by_the_seed(tmp_path: Path) -> None:
    session = DecoderSession.open(growing_decoder(tmp_path), threads=1)
    sampling = Sampling(temperature=5.0, seed=1)
    first = list(session.generate(ids([7]), max_new_tokens=8, sampling=sampling))
    assert list(session.generate(ids([7]), max_new_tokens=8, sampling=sampling)) == first
    assert first != wanted([7], 8)


def test_no_new_tokens_are_none(tmp_path: Path) -> None:
    session = DecoderSession.open(growing_decoder(tmp_path), threads=1)
    assert list(session.generate(ids([7]), max_new_tokens=0)) == []


def test_left_padding_moves_positions_and_is_not_seen(tmp_path: Path) -> None:
    session = DecoderSession.open(growing_decoder(tmp_path), threads=1)
    decoding = session.begin(2, 4)
    prompt = decoding.step(ids([40, 1, 2], [6, 1, 2]), ids([0, 1, 1], [1, 1, 1]))
    assert prompt.argmax(-1)[:, -1].tolist() == [1 + 2 + 1, 6 + 1 + 2 + 2]
    later = decoding.step(ids([5], [5]))
    assert later.argmax(-1)[:, -1].tolist() == [1 + 2 + 5 + 2, 6 + 1 + 2 + 5 + 3]


@pytest.mark.parametrize(("kind", "element"), [("float16", 10), ("bfloat16", 16)])
def test_half_precision_gives_float32_logits(tmp_path: Path, kind: str, element: int) -> None:
    session = DecoderSession.open(growing_decoder(tmp_path, kind, element), threads=1)
    assert session.logits(ids([1, 2])).dtype == np.float32
    assert list(session.generate(ids([3, 4]), max_new_tokens=6)) == wanted([3, 4], 6)


def test_generation_ends_where_the_context_is_full(tmp_path: Path) -> None:
    session = DecoderSession.open(shared_decoder(tmp_path, context_length=5), threads=1)
    assert list(session.generate(ids([3, 4]), max_new_tokens=100)) == wanted([3, 4], 3)


def test_a_prompt_beyond_the_context_is_refused(tmp_path: Path) -> None:
    session = DecoderSession.open(shared_decoder(tmp_path, context_length=2), threads=1)
    with pytest.raises(TargetError, match=r"3 tokens.*context length is 2"):
        next(session.generate(ids([3, 4, 5]), max_new_tokens=1))


def test_an_empty_prompt_is_refused(tmp_path: Path) -> None:
    session = DecoderSession.open(growing_decoder(tmp_path), threads=1)
    with pytest.raises(TargetError, match="prompt has no tokens"):
        next(session.generate(np.empty((1, 0), dtype=np.int64), max_new_tokens=1))


@DECODERS
def test_more_tokens_than_room_was_made_for_are_refused(decoder, tmp_path: Path) -> None:
    decoding = DecoderSession.open(decoder(tmp_path), threads=1).begin(1, 2)
    decoding.step(ids([3, 4]))
    with pytest.raises(TargetError, match="3 tokens decoded, but begun with room for 2"):
        decoding.step(ids([5]))


@DECODERS
def test_a_place_in_the_sequence_is_gone_back_to(decoder, tmp_path: Path) -> None:
    decoding = DecoderSession.open(decoder(tmp_path), threads=1).begin(1, 5)
    decoding.step(ids([3, 4]))
    place = decoding.mark()
    first = decoding.step(ids([5, 6, 7]))
    assert first.argmax(-1).tolist() == [[3 + 4 + 5 + 2, 18 + 3, 25 + 4]]
    decoding.rewind(place)
    assert decoding.step(ids([9])).argmax(-1).tolist() == [[3 + 4 + 9 + 2]]
    decoding.rewind(place)
    np.testing.assert_array_equal(decoding.step(ids([5, 6, 7])), first)


def test_opens_a_model_file_as_well_as_its_folder(tmp_path: Path) -> None:
    file = growing_decoder(tmp_path) / "model.onnx"
    session = DecoderSession.open(file, threads=1, providers=["CPUExecutionProvider"])
    assert list(session.generate(ids([3]), max_new_tokens=2)) == wanted([3], 2)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"model\.onnx does not exist"):
        DecoderSession.open(tmp_path)


def test_a_corrupt_configuration_is_named(tmp_path: Path) -> None:
    growing_decoder(tmp_path)
    (tmp_path / "genai_config.json").write_text('{"model": {}}')
    with pytest.raises(TargetError, match=r"genai_config\.json.*'decoder'"):
        DecoderSession.open(tmp_path)


def test_a_graph_that_is_no_decoder_is_refused_with_all_that_is_missing(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    other (float[N] x) => (float[N] y) { y = Abs (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    expected = r"no input_ids, attention_mask, past_key_values\.0\.key, logits\. Its inputs are x"
    with pytest.raises(TargetError, match=expected):
        DecoderSession.open(tmp_path)


def test_a_failing_run_gives_the_runtime_s_reason(tmp_path: Path) -> None:
    decoding = DecoderSession.open(growing_decoder(tmp_path), threads=1).begin(2, 4)
    with pytest.raises(TargetError, match="could not run the model"):
        decoding.step(ids([1, 2]), ids([1, 1], [1, 1]))


def fixed_decoder(folder: Path, capacity: str) -> Path:
    """Write a decoder whose likeliest token is the sum of all tokens so far, kept in a buffer."""
    text = f"""<ir_version: 10, opset_import: ["" : 24]>
    fixed (int64[B, S] input_ids, int64[B, {capacity}] attention_mask, int64[B] write_indices,
           float[B, 1, {capacity}, 1] past)
        => (float[B, S, 64] logits, float[B, 1, {capacity}, 1] now)
    <int64[2] outer = {{1, 3}}, int64 depth = {{64}}, float[2] hot = {{0, 1}}>
    {{
        new = Cast <to = 1> (input_ids)
        rows = Unsqueeze (new, outer)
        now = TensorScatter <axis = 2> (past, rows, write_indices)
        total = ReduceSum <keepdims = 0> (now)
        token = Cast <to = 7> (total)
        shape = Shape (input_ids)
        tokens = Expand (token, shape)
        logits = OneHot (tokens, depth, hot)
    }}"""
    proto = onnx.parser.parse_model(text)
    names = {"past": "past_key_values.0.key", "now": "present.0.key"}
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = names.get(value.name, value.name)
    onnx.save(proto, folder / "model.onnx")
    return folder


@pytest.mark.parametrize("capacity", ["C", "6"])
def test_a_fixed_cache_is_written_behind_the_tokens_before(capacity: str, tmp_path: Path) -> None:
    decoding = DecoderSession.open(fixed_decoder(tmp_path, capacity), threads=1).begin(1, 6)
    assert decoding.step(ids([3, 4])).argmax(-1)[0, -1] == 7
    place = decoding.mark()
    assert decoding.step(ids([5])).argmax(-1)[0, -1] == 12
    decoding.rewind(place)
    assert decoding.step(ids([8])).argmax(-1)[0, -1] == 15
    with pytest.raises(TargetError, match="begun with room for 6"):
        decoding.step(ids([1, 1, 1, 1]))


def test_a_capacity_that_the_graph_fixes_is_the_longest_text(tmp_path: Path) -> None:
    session = DecoderSession.open(fixed_decoder(tmp_path, "6"), threads=1)
    assert session.context_length == 6
    assert len(list(session.generate(ids([1, 1, 1]), max_new_tokens=9))) == 3
    with pytest.raises(TargetError, match="the model's cache has room for 6"):
        session.begin(1, 7)
