from __future__ import annotations

import struct

import numpy as np
import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.gguf_header import read_gguf_header


def test_reads_numbers_texts_and_arrays_of_numbers(write_gguf):
    metadata = {"a.count": 7, "a.flag": True, "a.name": "ångström", "a.list": [1, 2, 3]}
    header = read_gguf_header(write_gguf(metadata=metadata))
    assert {key: header.metadata[key] for key in metadata} == metadata | {"a.list": (1, 2, 3)}


def test_reads_a_float32_as_the_shortest_decimal_that_is_it(write_gguf):
    header = read_gguf_header(write_gguf())
    assert header.metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5


def test_steps_over_arrays_of_texts(write_gguf):
    header = read_gguf_header(
        write_gguf(metadata={"tokenizer.ggml.tokens": ["a", "bc", ""], "b": 1})
    )
    assert "tokenizer.ggml.tokens" not in header.metadata
    assert header.metadata["b"] == 1


def test_places_each_tensor_where_its_bytes_are(write_gguf, truth):
    path = write_gguf()
    header = read_gguf_header(path)
    content = path.read_bytes()
    for tensor in header.tensors:
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            continue
        raw = content[tensor.offset : tensor.offset + tensor.nbytes]
        assert raw == truth[tensor.name].tobytes(), tensor.name
        assert tensor.shape == truth[tensor.name].shape


def test_refuses_a_file_cut_anywhere(write_gguf, tmp_path):
    content = write_gguf(metadata={"tokenizer.ggml.tokens": ["a", "bc"]}).read_bytes()
    cut = tmp_path / "cut.gguf"
    lengths = [*range(0, 1600, 7), *range(1600, len(content), 4099), len(content) - 1]
    for length in lengths:
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            read_gguf_header(cut)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"GGML", "no GGUF file"),
        (4, struct.pack("<I", 1), "GGUF version 1"),
        (4, struct.pack(">I", 3), "GGUF version 50331648"),
        (8, struct.pack("<Q", 1 << 60), "truncated|damaged|tensor type"),
        (16, struct.pack("<Q", 1 << 60), "truncated|damaged"),
        (24, struct.pack("<Q", 1 << 60), "truncated"),
    ],
)
def test_refuses_a_damaged_beginning(offset, value, message, write_gguf):
    path = write_gguf()
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_gguf_header(path)


def test_refuses_an_unknown_tensor_type(write_gguf):
    path = write_gguf()
    _patch_entry(path, "blk.0.ffn_up.weight", kind=999)
    with pytest.raises(CheckpointError, match=r"ffn_up\.weight has tensor type 999"):
        read_gguf_header(path)


def test_refuses_tensors_that_overlap(write_gguf):
    path = write_gguf()
    _patch_entry(path, "blk.0.ffn_up.weight", offset=0)
    with pytest.raises(CheckpointError, match=r"ffn_up\.weight overlaps|overlaps blk\.0\.ffn_up"):
        read_gguf_header(path)


def test_refuses_a_tensor_beyond_the_end(write_gguf):
    path = write_gguf()
    _patch_entry(path, "blk.0.ffn_up.weight", offset=1 << 40)
    with pytest.raises(CheckpointError, match=r"ffn_up\.weight ends at byte"):
        read_gguf_header(path)


def test_refuses_rows_that_hold_no_whole_blocks(write_gguf):
    path = write_gguf(extra={"output.weight": np.zeros((4, 40), np.float32)})
    _patch_entry(path, "output.weight", kind=8)  # Q8_0, 32 at a time
    with pytest.raises(CheckpointError, match="rows of 40 elements, and Q8_0"):
        read_gguf_header(path)


def _patch_entry(path, name, *, kind=None, offset=None):
    """Overwrite the type or the offset of a matrix in the tensor table."""
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name) + 4 + 2 * 8
    if kind is not None:
        content[place : place + 4] = struct.pack("<I", kind)
    if offset is not None:
        content[place + 4 : place + 12] = struct.pack("<Q", offset)
    path.write_bytes(content)
