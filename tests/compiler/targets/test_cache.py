"""Caches hand a run what the run before it left, growing or in one shared buffer."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from castline.compiler.targets.cache import Cache, CacheLayout, GrowingCache, SharedCache

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
BFLOAT16 = onnx.TensorProto.BFLOAT16

# One graph appends the row `x` to a cache, one sets every row to it, and one adds it to every row.
APPEND = """<ir_version: 10, opset_import: ["" : 21]>
append (float[B, 2, 1, 3] x, float[B, 2, P, 3] past) => (float[B, 2, T, 3] present)
{ present = Concat <axis: int = 2> (past, x) }"""
SET = """<ir_version: 10, opset_import: ["" : 21]>
set (float[B, 2, 1, 3] x, float[B, 2, P, 3] past) => (float[B, 2, P, 3] present)
{ shape = Shape (past)
  present = Expand (x, shape) }"""
ADD = """<ir_version: 10, opset_import: ["" : 21]>
add (float[B, 2, 1, 3] x, float[B, 2, P, 3] past) => (float[B, 2, P, 3] present)
{ present = Add (past, x) }"""

LAYOUT = CacheLayout(
    pairs=(("past", "present"),), sizes=((2, 3),), element_type=FLOAT, device="cpu"
)


def run(graph: str, cache: Cache, batch: int, times: int) -> onnxruntime.OrtValue:
    """Run the graph `times` times, with x = 1, 2, ...; return the last present."""
    session = onnxruntime.InferenceSession(onnx.parser.parse_model(graph).SerializeToString())
    binding = session.io_binding()
    for number in range(1, times + 1):
        binding.bind_cpu_input("x", np.full((batch, 2, 1, 3), number, dtype=np.float32))
        cache.bind(binding)
        session.run_with_iobinding(binding)
        presents = binding.get_outputs()
        cache.keep(presents)
    return presents[0]


def test_a_growing_cache_feeds_the_present_back_as_the_past() -> None:
    present = run(APPEND, GrowingCache(LAYOUT, batch=2), batch=2, times=3).numpy()
    assert present.shape == (2, 2, 3, 3)
    assert present[1, 1, :, 2].tolist() == [1, 2, 3]


def test_a_shared_cache_is_one_buffer_updated_in_place() -> None:
    cache = SharedCache(LAYOUT, batch=1, capacity=4)
    first = run(SET, cache, batch=1, times=1)
    second = run(ADD, cache, batch=1, times=2)
    assert second.data_ptr() == first.data_ptr()
    assert second.numpy()[0, 1, :, 2].tolist() == [1 + 1 + 2] * 4


def test_a_layout_allocates_one_tensor_a_pair_in_the_graph_s_type() -> None:
    layout = CacheLayout(
        pairs=(("a", "b"), ("c", "d")), sizes=((2, 8), (4, 16)), element_type=FLOAT16, device="cpu"
    )
    values = layout.allocate(batch=3, length=5)
    assert [value.shape() for value in values] == [[3, 2, 5, 8], [3, 4, 5, 16]]
    assert {value.data_type() for value in values} == {"tensor(float16)"}


def test_a_fixed_cache_begins_with_zeros() -> None:
    for element_type, name in ((FLOAT, "float"), (FLOAT16, "float16"), (BFLOAT16, "bfloat16")):
        layout = CacheLayout((("a", "b"),), ((2, 8),), element_type, "cpu", fixed=True)
        (value,) = layout.allocate_zeros(batch=3, length=5)
        assert value.shape() == [3, 2, 5, 8]
        assert value.data_type() == f"tensor({name})"
        if element_type != BFLOAT16:  # numpy has none
            assert not value.numpy().any()
